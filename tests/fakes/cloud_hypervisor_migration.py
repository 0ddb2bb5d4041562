"""vm.receive-migration of the Cloud Hypervisor stand-in: the local protocol, with pages on demand.

vm-migration/src/protocol.rs of Cloud Hypervisor v53. Imports nothing of the product.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import socket
import struct
from typing import Any

from cloud_hypervisor_memory import ApiError, Region  # type: ignore[import-not-found]
from cloud_hypervisor_vm import Vmm, _complete, _listen  # type: ignore[import-not-found]

START, CONFIG, STATE, COMPLETE, ABANDON, MEMORY_FD, PAUSED, FAULT = 1, 2, 3, 5, 6, 7, 8, 9
OK, ERROR = 1, 2
FAULT_ROLE = 2
HEADER = struct.Struct("<H6xQ")
RANGE = struct.Struct("<QQ")
PAGE = 4096
_PAGES = 3  # that a guest touches


async def receive(vmm: Vmm, order: dict[str, Any]) -> None:
    """Listen, take a machine, leave it paused or running. Raises: ApiError."""
    doing = "Error receiving migration"
    if vmm.version < (53, 0):
        raise ApiError(doing, "Postcopy is not known")
    if vmm.config is not None:
        raise ApiError(doing, "Can't receive a migration when a VM is already created")
    path = order["receiver_url"].removeprefix("unix:")
    listener = _listen(path)
    try:
        loop = asyncio.get_running_loop()
        peer, _ = await loop.sock_accept(listener)
        peer.setblocking(False)
        with peer:
            await _Receiver(vmm, listener, peer).run()
    except (OSError, EOFError, ValueError, KeyError) as exc:
        raise ApiError(doing, "Migration was aborted", str(exc)) from exc
    finally:
        listener.close()
        os.unlink(path)


class _Receiver:
    def __init__(self, vmm: Vmm, listener: socket.socket, peer: socket.socket) -> None:
        self._vmm = vmm
        self._listener = listener
        self._peer = peer
        self._slots: dict[int, int] = {}
        self._said: dict[str, Any] = {}

    async def run(self) -> None:
        while True:
            command, length = HEADER.unpack(await _exactly(self._peer, HEADER.size))
            await self._take(command, length)
            await self._answer(self._peer)
            if command in (COMPLETE, PAUSED):
                break
        if command == COMPLETE:
            self._vmm.resume()

    async def _take(self, command: int, length: int) -> None:
        if command == MEMORY_FD:
            number, fd = await _slot(self._peer)
            self._slots[number] = fd
        elif command == CONFIG:
            self._said = json.loads(await _exactly(self._peer, length))
        elif command == STATE:
            await self._restore(length)
        elif command not in (START, COMPLETE, PAUSED):
            raise ValueError(f"command {command} is not for now")

    async def _restore(self, length: int) -> None:
        """The connection for faults comes before the state is read, and with it the first request
        of what fills memory in the background; if that is refused, only the guest asks.
        """
        faults, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        faults.setblocking(False)
        (role,) = struct.unpack("<H", await _exactly(faults, 2))
        if role != FAULT_ROLE:
            raise ValueError(f"role {role} is none")
        self._map()
        sweeps = await self._has_page(faults, self._vmm.memory.regions[0].gpa)
        state = json.loads(await _exactly(self._peer, length))
        assert state["snapshots"], "the state is that of a snapshot"
        await self._touch(faults, all_pages=sweeps)
        if sweeps:
            faults.close()
        else:
            self._vmm.pages_by = faults  # for as long as this process lives
        self._run()

    def _map(self) -> None:
        zones = {zone["id"]: zone for zone in self._said["vm_config"]["memory"]["zones"]}
        for mapping in self._said["memory_manager_data"]["guest_ram_mappings"]:
            if not zones[mapping["zone_id"]]["shared"]:
                raise ValueError("anonymous memory cannot be shared")
            size, offset = mapping["size"], mapping["file_offset"]
            fd = self._slots.pop(mapping["slot"])
            memory = mmap.mmap(fd, size, offset=offset)
            self._vmm.memory.regions.append(
                Region(mapping["gpa"], size, mapping["zone_id"], 0, True, False, memory, fd)
            )

    async def _touch(self, faults: socket.socket, *, all_pages: bool) -> None:
        """Page by page, each asked for: what a guest does, or what fills its memory."""
        for region in self._vmm.memory.regions:
            for page in range(region.size // PAGE if all_pages else _PAGES):
                if not await self._has_page(faults, region.gpa + page * PAGE):
                    raise ValueError("a page was refused")

    async def _has_page(self, faults: socket.socket, gpa: int) -> bool:
        request = HEADER.pack(FAULT, RANGE.size) + RANGE.pack(gpa, PAGE)
        await asyncio.get_running_loop().sock_sendall(faults, request)
        status, _ = HEADER.unpack(await _exactly(faults, HEADER.size))
        return bool(status == OK)

    def _run(self) -> None:
        vmm = self._vmm
        vmm.config = _complete(self._said["vm_config"])
        vmm._open_console("Error receiving migration")
        vmm._bind_channel("Error receiving migration")
        vmm._set("Paused")

    async def _answer(self, peer: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(peer, HEADER.pack(OK, 0))


async def _exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await asyncio.get_running_loop().sock_recv(peer, size - len(data))
        if not part:
            raise EOFError("the page server hung up")
        data += part
    return data


async def _slot(peer: socket.socket) -> tuple[int, int]:
    """A slot's number, with a descriptor of its memory."""
    while True:
        try:
            data, fds, _flags, _ = socket.recv_fds(peer, 4, 1)
        except BlockingIOError:
            await asyncio.sleep(0.001)
            continue
        return int.from_bytes(data, "little"), fds[0]
