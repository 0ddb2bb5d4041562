"""A page server that gives Cloud Hypervisors their memory: the sender of their local protocol.

Implements what the driver uses of `agentd.pager.client.Pager`, by hand: so the driver is tried out
against another page server than its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentd.errors import ErrorCode, PeerError, TransientError
from agentd.wire.pager import Listen, OffloadRestore, OffloadSave, Recording, Serving, Stats

START, CONFIG, STATE, MEMORY_FD, PAUSED, FAULT = 1, 2, 3, 7, 8, 9
OK = 1
HEADER = struct.Struct("<H6xQ")
RANGE = struct.Struct("<QQ")


@dataclass
class FakePager:
    """offers: so far. forgotten: ids. refuses: takes no order. gives_up: hang up before the state.
    faults: pages served. recorded: ids whose record was asked for.
    """

    refuses: bool = False
    gives_up: bool = False
    offers: list[OffloadRestore] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    giving: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)
    faults: int = 0
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def offload(self, order: OffloadRestore | OffloadSave) -> None:
        assert isinstance(order, OffloadRestore)
        if self.refuses:
            raise TransientError(ErrorCode.NODE_FULL, "no descriptors are left")
        self.offers.append(order)
        self.giving[order.vm] = asyncio.create_task(self._give(order))

    async def wait(self, vm_id: str, *, deadline_s: float) -> Serving:
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.shield(self.giving[vm_id])
        except (OSError, AssertionError) as exc:
            raise PeerError(ErrorCode.VMM_FAILED, f"giving {vm_id} memory: {exc}") from exc
        return Serving(
            vm=vm_id, pid=0, method="demand", why="", regions=1, pages=0, prefetched=0,
            kept_by="nobody",
        )  # fmt: skip

    async def end_recording(self, vm_id: str, *, deadline_s: float) -> Recording:
        self.recorded.append(vm_id)
        return Recording(touches=self.faults, written=0)

    async def listen(self, order: Listen) -> None:
        raise AssertionError("Cloud Hypervisor hands nothing over")

    async def stats(self) -> Stats:
        raise AssertionError("no driver asks for these")

    async def _give(self, offer: OffloadRestore) -> None:
        peer = await _call(offer)
        with peer:
            await _ask(peer, START, b"")
            config = _read(offer.config)
            slots = await self._give_memory(peer, config)
            await _ask(peer, CONFIG, config)
            if self.gives_up:
                _close(slots)
                return
            faults = await _call(offer)
            faults.sendall(struct.pack("<H", 2))
            serving = asyncio.create_task(self._serve(faults, slots, offer))
            self.serving.add(serving)
            serving.add_done_callback(self.serving.discard)
            await _ask(peer, STATE, _read(offer.state))
            await _ask(peer, PAUSED, b"")

    async def forget(self, vm_id: str) -> None:
        self.forgotten.append(vm_id)
        if giving := self.giving.get(vm_id):
            giving.cancel()
            await asyncio.wait({giving})

    async def _give_memory(self, peer: socket.socket, config: bytes) -> list[dict[str, Any]]:
        """Empty memory for each slot."""
        mappings = json.loads(config)["memory_manager_data"]["guest_ram_mappings"]
        at = 0
        for mapping in mappings:
            mapping["at"], at = at, at + mapping["size"]
            mapping["fd"] = os.memfd_create("slot", os.MFD_CLOEXEC)
            os.ftruncate(mapping["fd"], mapping["size"])
            peer.setblocking(True)
            peer.sendall(HEADER.pack(MEMORY_FD, 4))
            socket.send_fds(peer, [struct.pack("<I", mapping["slot"])], [mapping["fd"]])
            peer.setblocking(False)
            await _answer(peer)
        return list(mappings)

    async def _serve(
        self, sock: socket.socket, slots: list[dict[str, Any]], offer: OffloadRestore
    ) -> None:
        """Fill what is asked for, until the monitor hangs up."""
        image = os.open(offer.image, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with sock:
                while header := await _some(sock, HEADER.size):
                    assert HEADER.unpack(header) == (FAULT, RANGE.size)
                    gpa, length = RANGE.unpack(await _some(sock, RANGE.size))
                    slot = next(s for s in slots if s["gpa"] <= gpa < s["gpa"] + s["size"])
                    offset = gpa - slot["gpa"]
                    os.pwrite(slot["fd"], os.pread(image, length, slot["at"] + offset), offset)
                    self.faults += 1
                    await asyncio.get_running_loop().sock_sendall(sock, HEADER.pack(OK, 0))
        finally:
            os.close(image)
            _close(slots)


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _close(slots: list[dict[str, Any]]) -> None:
    for slot in slots:
        os.close(slot["fd"])


async def _call(offer: OffloadRestore) -> socket.socket:
    """The monitor begins to listen a moment after it was told to."""
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, offer.socket)
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            await asyncio.sleep(0.005)
        except BaseException:
            sock.close()
            raise
        else:
            return sock


async def _ask(peer: socket.socket, command: int, payload: bytes) -> None:
    message = HEADER.pack(command, len(payload)) + payload
    await asyncio.get_running_loop().sock_sendall(peer, message)
    await _answer(peer)


async def _answer(peer: socket.socket) -> None:
    header = await _some(peer, HEADER.size)
    assert header, "the monitor hung up"
    assert HEADER.unpack(header)[0] == OK, "the monitor refused"


async def _some(sock: socket.socket, size: int) -> bytes:
    """Exactly as many bytes, none at the end."""
    data = b""
    while len(data) < size:
        part = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        if not part:
            return b""
        data += part
    return data
