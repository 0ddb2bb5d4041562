"""The guest of the Cloud Hypervisor stand-in behind its hybrid vsock, its console.

Imports nothing of the product: it runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from pathlib import Path
from typing import Any

from cloud_hypervisor_vm import Vmm  # type: ignore[import-not-found]
from guest_channel import FakeGuest, FakeStream  # type: ignore[import-not-found]
from vm_process import Guest  # type: ignore[import-not-found]

GUEST_PORT = 1024
MAX_CONNECTIONS = 1023
_LINE_BYTES = 32
_SHORTEST = len("connect 0\n")
_FIRST_HOST_PORT = 1 << 30
_KEPT_BYTES = 1 << 20


class Runtime(Guest):
    """What runs in a machine: as it was at its snapshot, then what its identity makes of it."""

    def __init__(self, vmm: Vmm, faults: frozenset[str]) -> None:
        super().__init__(None, faults)
        self._vmm = vmm
        self.memory = vmm.memory
        self.console = vmm.write_console
        self.reset = vmm.reset

    def services(self) -> dict[str, Any]:
        return {**super().services(), "inject": self.inject}

    async def inject(self, stream: FakeStream) -> None:
        """The guest's side of docs/guest-protocol.md, section 4.1."""
        if self.gate == "open":
            stream.reset("gate_open", "it has started")
            return
        features = ["prepare", "commit", "cancel"]
        hello = {"type": "CAPABILITIES", "protocol_version": "1", "supported_features": features}
        await stream.send_message(hello)
        prepare = await stream.read_message()
        if "reject" in self.faults:
            refusal = {"type": "REJECT", "reason": "resource_exhausted", "message": "no room"}
            await stream.send_message(refusal)
            return
        if "silent" in self.faults:
            await asyncio.Event().wait()
        await stream.send_message({"type": "READY"})
        commit = await stream.read_message()
        assert commit["type"] == "COMMIT", commit
        assert commit["wall_clock_ns"] > 0, "a machine whose clock stood still is told the time"
        self._become(prepare)
        await stream.send_message({"type": "STARTED"})
        stream.close()

    def _become(self, prepare: dict[str, Any]) -> None:
        other = Guest(prepare, self.faults)
        self.gate, self.identity = other.gate, other.identity
        self.environment, self.files = other.environment, other.files
        self.memory.write(json.dumps(self.identity["session_id"]).encode())


class Port(FakeGuest):
    """The guest's end of the channel, given one connection after the other."""

    def __init__(self) -> None:
        super().__init__(Path("unused"))

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a host until it hangs up."""
        self.hang_up()
        await self._serve(reader, writer)


class Vsock:
    """Accepts hosts for as long as a machine runs."""

    def __init__(self, vmm: Vmm) -> None:
        self._vmm = vmm
        self._refused = vmm.settings.get("refused_connections", 0)
        self._muted = vmm.settings.get("muted_connections", 0)
        self._port: Port | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[socket.socket] = []
        self._host_ports = itertools.count(_FIRST_HOST_PORT)
        self._kept = bytearray()

    def follow(self) -> None:
        """Listen to what the machine has come to."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            if listener.fileno() >= 0:
                loop.remove_reader(listener)
        self._listeners.clear()
        if self._vmm.state != "Running":
            return
        self._find_guest()
        for listener, serve in (
            (self._vmm.channel, self._serve),
            (self._vmm.console, self._show),
        ):
            if listener is not None:
                self._listeners.append(listener)
                loop.add_reader(listener, self._accept, listener, serve)

    def _find_guest(self) -> None:
        """Memory without a guest runs nothing: whoever connects waits."""
        who = self._vmm.memory.guest()
        if self._port is None and who is not None:
            runtime = Runtime(self._vmm, self._vmm.faults)
            self._port = Port()
            self._port.services = runtime.services()
            runtime.hang_up, runtime.write = self._port.hang_up, self._port.write
            self.print(f"stand-in guest {who['booted']} runs: {who['cmdline']}\n".encode())

    def print(self, data: bytes) -> None:
        """Of the guest, on its console; a socket keeps the last MiB from v53 on."""
        self._vmm.write_console(data)
        if self._vmm.version >= (53, 0):
            self._kept = (self._kept + data)[-_KEPT_BYTES:]

    def _accept(self, listener: socket.socket, serve: Any) -> None:
        sock, _ = listener.accept()
        sock.setblocking(False)
        if serve == self._serve and self._is_full():
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(serve(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_full(self) -> bool:
        return "vsock_full" in self._vmm.faults or len(self._tasks) >= MAX_CONNECTIONS

    async def _serve(self, sock: socket.socket) -> None:
        port = await self._read_command(sock)
        if port == GUEST_PORT and self._muted > 0:
            self._muted -= 1
            await asyncio.Event().wait()  # as if it were a connection from before
        if port == GUEST_PORT and self._port is None:
            await asyncio.Event().wait()  # nobody takes what was sent
        if port != GUEST_PORT or self._refused > 0:
            self._refused -= 1
            sock.close()
            return
        await asyncio.get_running_loop().sock_sendall(sock, b"OK %d\n" % next(self._host_ports))
        assert self._port is not None
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        await self._port.take(reader, writer)

    async def _read_command(self, sock: socket.socket) -> int:
        """Not a byte beyond the line; 0 for what is no command."""
        line = b""
        while not line.endswith(b"\n") and len(line) < _LINE_BYTES:
            more = max(_SHORTEST - len(line), 1)
            data = await asyncio.get_running_loop().sock_recv(sock, more)
            if not data:
                return 0
            line += data
        words = line.split()
        if len(words) != 2 or words[0].lower() != b"connect" or not words[1].isdigit():
            return 0
        return int(words[1])

    async def _show(self, sock: socket.socket) -> None:
        """The console: what was kept, once."""
        kept, self._kept = bytes(self._kept), bytearray()
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(sock, kept)
            await loop.sock_recv(sock, 1)
        except ConnectionError:
            pass
        finally:
            sock.close()
