"""The guest of the Firecracker stand-in behind its hybrid vsock.

Imports nothing of the product: it runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from pathlib import Path
from typing import Any

from firecracker_vm import Vmm  # type: ignore[import-not-found]
from guest_channel import FakeGuest, FakeStream  # type: ignore[import-not-found]
from vm_process import Guest  # type: ignore[import-not-found]

GUEST_PORT = 1024
MAX_CONNECTIONS = 1023
_LINE_BYTES = 32
_SHORTEST = len("connect 0\n")
_FIRST_HOST_PORT = 1 << 30


class Runtime(Guest):
    """What runs in a machine: as it was at its snapshot, then what its identity makes of it."""

    def __init__(self, vmm: Vmm) -> None:
        super().__init__(None, vmm.faults)
        self.memory = vmm.memory
        self.console = vmm.write_console

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

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(Path("unused"), runtime.services())
        runtime.hang_up, runtime.write = self.hang_up, self.write

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a host until it hangs up."""
        self.hang_up()
        await self._serve(reader, writer)


class Vsock:
    """Accepts hosts for as long as a machine runs.

    Of the stand-in's settings: refused_connections, muted_connections: that many of the first ones
    are hung up on, never answered.
    """

    def __init__(self, vmm: Vmm) -> None:
        self._vmm = vmm
        self._refused = vmm.settings.get("refused_connections", 0)
        self._muted = vmm.settings.get("muted_connections", 0)
        self._port: Port | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_listening = False
        self._host_ports = itertools.count(_FIRST_HOST_PORT)

    def follow(self) -> None:
        """Serve a machine that runs, leave one that does not."""
        loop, listener = asyncio.get_running_loop(), self._vmm.channel
        is_running = self._vmm.state == "Running" and listener is not None
        if is_running and self._port is None:
            self._find_guest()
        if is_running and not self._is_listening:
            loop.add_reader(listener, self._accept, listener)
        elif not is_running and self._is_listening:
            loop.remove_reader(listener)
        self._is_listening = is_running

    def _find_guest(self) -> None:
        """Memory without a guest runs nothing: whoever connects waits."""
        who = self._vmm.memory.guest()
        if who is not None:
            self._port = Port(Runtime(self._vmm))
            text = f"stand-in guest {who['booted']} runs: {who['cmdline']}\n"
            self._vmm.write_console(text.encode())

    def _accept(self, listener: socket.socket) -> None:
        sock, _ = listener.accept()
        sock.setblocking(False)
        if "vsock_full" in self._vmm.faults or len(self._tasks) >= MAX_CONNECTIONS:
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        port = await self._read_command(sock)
        if port == GUEST_PORT and (self._muted > 0 or self._port is None):
            self._muted -= 1
            await asyncio.Event().wait()  # nobody takes what was sent to the guest
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
