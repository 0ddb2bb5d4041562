"""A page server on a Unix socket, speaking docs/memory.md by its own means.

It serves no page: a machine is one whose monitor connected and sent what its protocol demands. It
can die at any request, as SIGKILL would have it: connections end without an answer, sockets stay
where they were made, machines that were not handed over are forgotten, the others go on with the
next incarnation, which is there at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.fakes.kuasar.listener import listening

VM_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
FDS: Final = {"firecracker": 1, "memfd": 2}
MOST_FDS: Final = 8
MESSAGE_BYTES: Final = 256 * 1024


class RefusedError(Exception):
    """What is asked for cannot be. args: the error word, a text."""


@dataclass
class FakeMachine:
    """What it knows of one machine. order: the request that began it."""

    order: dict[str, Any]
    listener: socket.socket | None = None
    hand_over: asyncio.Task[None] | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    pid: int = 0
    record: str = ""
    is_lasting: bool = True
    regions: list[dict[str, int]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_journalled(self) -> bool:
        return bool(self.pid)

    @property
    def pages(self) -> int:
        return sum(region["size"] // 4096 for region in self.regions)


class FakePager:
    """The page server. Use `async with pager.serving()`.

    facts: members of a machine's statistics, by its id. dies: operations at which it dies once,
    "before" it is carried out or "after". says: raw bytes in place of an answer, by operation;
    None is silence.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "pager.sock"
        self.machines: dict[str, FakeMachine] = {}
        self.stopped: list[dict[str, str]] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.dies: dict[str, str] = {}
        self.says: dict[str, bytes | None] = {}
        self.deaths = 0
        self.hand_over_s = 10.0
        self.wait_most_s = float("inf")
        self._links: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakePager]:
        """Answer until the block ends; the control socket's file stays."""
        async with listening(self.path, self._serve, mode=0o600):
            try:
                yield self
            finally:
                for machine in self.machines.values():
                    await _end(machine)

    async def stop_machine(self, vm_id: str, reason: str) -> None:
        """As when a machine's image changes under it."""
        await _end(self.machines.pop(vm_id))
        self.stopped.append({"vm": vm_id, "reason": reason})

    # -- the control socket -------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links.add(writer)
        try:
            while line := await reader.readline():
                answer = await self.answer(json.loads(line))
                if answer is None:
                    await asyncio.Event().wait()
                writer.write(answer)
                await writer.drain()
        finally:
            self._links.discard(writer)

    async def answer(self, request: dict[str, Any]) -> bytes | None:
        """The line for one request; None is silence."""
        self.requests.append(request)
        op = str(request.get("op"))
        dies = self.dies.pop(op, "")
        if dies == "before":
            await self._die()
        if op in self.says:
            return self.says[op]
        try:
            done = await self._carry_out(op, request)
            reply = {"ok": True, **done}
        except RefusedError as exc:
            word, text = exc.args
            reply = {"ok": False, "error": word, "message": text}
        if dies == "after":
            await self._die()
        return json.dumps(reply).encode() + b"\n"

    async def _carry_out(self, op: str, request: dict[str, Any]) -> dict[str, Any]:
        if op == "hello":
            return {"version": "9.9", "pid": os.getpid(), "machines": len(self.machines)}
        if op == "listen":
            return self._listen(request)
        if op in ("offload_restore", "offload_save"):
            return self._offload(request)
        if op == "wait":
            return await self._wait(request["vm"], request["timeout_s"])
        if op == "end_recording":
            return self._end_recording(request["vm"])
        if op == "forget":
            machine = self.machines.pop(request["vm"], None)
            if machine is not None:
                await _end(machine)
            return {}
        if op == "stats":
            machines = [self._stats_of(vm, one) for vm, one in self.machines.items()]
            return {
                "pid": os.getpid(), "uptime_s": 12.5, "machines": machines,
                "stopped": self.stopped, "of_a_newer_version": 1,
            }  # fmt: skip
        raise RefusedError("invalid", f"there is no operation {op!r}")

    async def _die(self) -> None:
        self.deaths += 1
        for vm_id, machine in list(self.machines.items()):
            await _end(machine, leave_socket=True)
            machine.record = ""
            if not machine.is_journalled or not machine.is_lasting:
                del self.machines[vm_id]
        for writer in list(self._links):
            writer.transport.abort()
        raise ConnectionResetError

    # -- machines -----------------------------------------------------------------------------

    def _listen(self, order: dict[str, Any]) -> dict[str, Any]:
        vm_id = order["vm"]
        if not VM_ID.fullmatch(vm_id) or order["protocol"] not in FDS:
            raise RefusedError("invalid", "the machine's name or protocol is none")
        if not DIGEST.fullmatch(order["digest"]):
            raise RefusedError("invalid", "the digest is none")
        if order["protocol"] == "memfd" and order["image"]:
            raise RefusedError("invalid", "image: comes with the hand-over for memfd")
        if vm_id in self.machines:
            if self.machines[vm_id].order == order:
                return {}
            raise RefusedError("exists", "there is a machine of that name")
        if order["image"] and not Path(order["image"]).is_file():
            raise RefusedError("image", f"{order['image']}: no such file")
        self.machines[vm_id] = machine = FakeMachine(order, record=order["record"])
        try:
            machine.listener = _listening_socket(Path(order["socket"]))
        except OSError as exc:
            del self.machines[vm_id]
            word = "exists" if Path(order["socket"]).exists() else "system"
            raise RefusedError(word, f"binding the socket: {exc.strerror}") from exc
        machine.hand_over = asyncio.create_task(self._take_over(vm_id, machine))
        return {}

    def _offload(self, order: dict[str, Any]) -> dict[str, Any]:
        """A session as if its monitor had its machine at once; it does not outlive this server."""
        if order["vm"] in self.machines:
            raise RefusedError("exists", "there is a session of that name")
        machine = FakeMachine({**order, "protocol": "offload"}, is_lasting=False)
        machine.pid = os.getpid()
        machine.over.set()
        self.machines[order["vm"]] = machine
        return {}

    async def _take_over(self, vm_id: str, machine: FakeMachine) -> None:
        assert machine.listener is not None
        try:
            async with asyncio.timeout(self.hand_over_s):
                await _readable(machine.listener)
                link, _ = machine.listener.accept()
                with link:
                    link.setblocking(False)
                    await _receive(link, machine)
        except (OSError, ValueError, KeyError, TimeoutError) as exc:
            why = "the hand-over did not come in time" if isinstance(exc, TimeoutError) else exc
            self.machines.pop(vm_id, None)
            self.stopped.append({"vm": vm_id, "reason": f"{why}"})
            _close(machine.listener, leave_socket=False)
            machine.listener = None
        machine.over.set()

    async def _wait(self, vm_id: str, timeout_s: float) -> dict[str, Any]:
        machine = self.machines.get(vm_id)
        if machine is None:
            raise self._gone(vm_id)
        try:
            async with asyncio.timeout(min(timeout_s, self.wait_most_s)):
                await machine.over.wait()
        except TimeoutError:
            text = "its monitor has not handed its memory over"
            raise RefusedError("hand_over", text) from None
        if vm_id not in self.machines:
            raise self._gone(vm_id)
        return {
            "vm": vm_id, "pid": machine.pid, "method": "install-before", "why": "a test",
            "regions": len(machine.regions), "pages": machine.pages, "prefetched": 0,
            "kept_by": "vmm",
        }  # fmt: skip

    def _gone(self, vm_id: str) -> RefusedError:
        for one in reversed(self.stopped):
            if one["vm"] == vm_id:
                return RefusedError("stopped", one["reason"])
        return RefusedError("unknown", "never heard of it")

    def _end_recording(self, vm_id: str) -> dict[str, Any]:
        machine = self.machines.get(vm_id)
        if machine is None or not machine.is_journalled:
            raise self._gone(vm_id)
        if not machine.record:
            raise RefusedError("unknown", "it is not recorded, or not any more")
        Path(machine.record).write_bytes(b"a record")
        machine.record = ""
        return {"touches": 7, "written": 3}

    def _stats_of(self, vm_id: str, machine: FakeMachine) -> dict[str, Any]:
        facts = {"vm": vm_id, "protocol": machine.order["protocol"], "reason": ""}
        if not machine.is_journalled:
            return {**facts, "state": "listening"}
        return {
            **facts, "state": "serving", "pid": machine.pid, "method": "install-before",
            "why": "a test", "pages": machine.pages, "faults": 0, "prefetched": 0, "copied": 0,
            "shared": 0, "zeroed": 0, "removed": 0, "working_set": 0, "covered": None,
            "stalls": 0, "max_stall_us": 0, **self.facts.get(vm_id, {}),
        }  # fmt: skip


async def hand_over(path: str, regions: list[dict[str, int]], *, fds: int = 1) -> None:
    """What a monitor does: connect, send its regions with descriptors, and stay a moment."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.setblocking(False)
        await loop.sock_connect(link, path)
        with contextlib.ExitStack() as opened:
            sent = [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(fds)]
            for fd in sent:
                opened.callback(os.close, fd)
            socket.send_fds(link, [json.dumps(regions).encode()], sent)


def _listening_socket(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.setblocking(False)
        made.bind(str(path))
        path.chmod(0o600)
        made.listen(1)
    except BaseException:
        made.close()
        raise
    return made


async def _receive(link: socket.socket, machine: FakeMachine) -> None:
    await _readable(link)
    text, fds, _, _ = socket.recv_fds(link, MESSAGE_BYTES, MOST_FDS)
    for fd in fds:
        os.close(fd)
    expected = FDS[machine.order["protocol"]]
    if len(fds) != expected:
        raise ValueError(f"{len(fds)} descriptors came, not {expected}")
    said = json.loads(text)
    regions = said["regions"] if isinstance(said, dict) else said
    machine.regions = [{**region} for region in regions]
    credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    machine.pid = struct.unpack("3i", credentials)[0]


async def _readable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


async def _end(machine: FakeMachine, *, leave_socket: bool = False) -> None:
    if machine.hand_over is not None:
        machine.hand_over.cancel()
        await asyncio.gather(machine.hand_over, return_exceptions=True)
    if machine.listener is not None:
        _close(machine.listener, leave_socket=leave_socket)
        machine.listener = None
    machine.over.set()


def _close(listener: socket.socket, *, leave_socket: bool) -> None:
    path = listener.getsockname()
    listener.close()
    if not leave_socket:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
