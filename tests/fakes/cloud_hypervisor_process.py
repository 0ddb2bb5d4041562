"""Stand in for a Cloud Hypervisor with its guest: its command line, HTTP interface, events, locks.

Run by the launcher of `tests.fakes.cloud_hypervisor` as `python cloud_hypervisor_process.py
DIRECTORY ARGUMENT...`; DIRECTORY/stand-in.json holds its version and what goes wrong. Each request
is served when the one before is over, unknown members are ignored. Imports nothing of the product.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from cloud_hypervisor_memory import ApiError  # type: ignore[import-not-found]
from cloud_hypervisor_migration import receive  # type: ignore[import-not-found]
from cloud_hypervisor_vm import Vmm  # type: ignore[import-not-found]
from cloud_hypervisor_vsock import Vsock  # type: ignore[import-not-found]

_ROOT = "/api/v1/"
_F_OFD_SETLK = 37
_BODY_MAX_BYTES = 51200
Version = tuple[int, int]


class Events:
    """The stream of --event-monitor: objects of several lines, each with an empty line after it."""

    def __init__(self, option: str | None) -> None:
        self._fd = -1
        self._begun = time.monotonic()
        if option is not None:
            kind, _, value = option.partition("=")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._fd = int(value) if kind == "fd" else os.open(value, flags, 0o644)

    def emit(self, source: str, event: str) -> None:
        if self._fd >= 0:
            seconds, nanos = divmod(int((time.monotonic() - self._begun) * 1e9), 10**9)
            timestamp = {"secs": seconds, "nanos": nanos}
            body = {"timestamp": timestamp, "source": source, "event": event, "properties": None}
            os.write(self._fd, json.dumps(body, indent=2).encode() + b"\n\n")


class Server:
    """The interface of one monitor."""

    def __init__(self, settings: dict[str, Any], events: Events) -> None:
        self.settings = settings
        self.build_version: str = settings["version"]
        major, minor = self.build_version.removeprefix("v").split("-")[0].split(".")[:2]
        self.version: Version = tuple(settings.get("release") or (int(major), int(minor)))
        self._vmm = Vmm(self.version, settings, events.emit, self._follow)
        self._vsock = Vsock(self._vmm)
        self._events = events
        self._turn = asyncio.Lock()
        self.is_over = asyncio.Event()

    def _follow(self) -> None:
        self._vsock.follow()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests one after the other on a connection, HTTP/1.1."""
        try:
            while request := await _read_request(reader):
                method, path, body = request
                async with self._turn:
                    answer = await self._answer(method, path, body)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, method: str, path: str, body: bytes) -> bytes | None:
        action = path.removeprefix(_ROOT)
        for fault in self._vmm.faults:
            kind, _, where = fault.partition("@")
            if where == action and (done := await self._misbehave(kind)) is not None:
                return done or None
        try:
            status, answer = await self._act(method, path, action, body)
        except ApiError as exc:
            status, answer = self._code(exc.kind), json.dumps(exc.chain).encode()
        if self.is_over.is_set():
            asyncio.get_running_loop().call_later(0.01, os._exit, 0)
        return _response(status, answer)

    async def _misbehave(self, kind: str) -> bytes | None:
        """What a test wants instead of an answer: b"" hangs up, None is none of it."""
        if kind == "exit":
            print("cloud-hypervisor: 0.1s: <vmm> ERROR: stand-in was told to exit", flush=True)
            os._exit(3)
        if kind == "hang":
            await asyncio.Event().wait()
        if kind == "drop":
            return b""
        if kind == "nonsense":
            return _response(200, b"<html>")
        if kind == "refuse":
            return _response(500, b'["Error from API","The stand-in was told to refuse"]')
        if kind.startswith("os_error_"):
            number = int(kind.removeprefix("os_error_"))
            chain = ["Error from API", f"{os.strerror(number)} (os error {number})"]
            return _response(500, json.dumps(chain).encode())
        return None

    def _code(self, kind: str) -> int:
        """What a failure is called differs from version to version."""
        if kind in ("request", "unknown"):
            return {"request": 400, "unknown": 404}[kind]
        if kind == "missing" and self.version >= (53, 0):
            return 404
        return 400 if kind == "validation" and self.version >= (54, 0) else 500

    async def _act(self, method: str, path: str, action: str, body: bytes) -> tuple[int, bytes]:
        if not path.startswith(_ROOT) or action not in _METHODS:
            raise ApiError("Not Found", kind="unknown")
        takes_body = action in _BODIES
        if action == "vm.create" and method == "PUT" and not body:
            return 400, b""
        if method != _METHODS[action] or bool(body) != takes_body:
            raise ApiError("Bad Request", kind="request")
        return await self._call(action, _decoded(body) if takes_body else {})

    async def _call(self, action: str, order: dict[str, Any]) -> tuple[int, bytes]:
        vmm = self._vmm
        if action == "vmm.ping":
            return 200, self._ping()
        if action == "vmm.shutdown":
            self._events.emit("vmm", "shutdown")
            self.is_over.set()
            return 200, b""
        try:
            if action == "vm.info":
                return 200, json.dumps(vmm.info()).encode()
            if action == "vm.receive-migration":
                await receive(vmm, order)
                return 204, b""
            acts: dict[str, Callable[[], None]] = {
                "vm.create": lambda: vmm.create(order),
                "vm.boot": vmm.boot,
                "vm.pause": vmm.pause,
                "vm.resume": vmm.resume,
                "vm.snapshot": lambda: vmm.snapshot(order),
                "vm.restore": lambda: vmm.restore(order),
                "vm.shutdown": vmm.shutdown,
                "vm.delete": vmm.delete,
            }
            acts[action]()
        except ApiError as exc:
            if exc.kind != "request":
                exc.chain.insert(0, "Error from API")
            raise
        return 204, b""

    def _ping(self) -> bytes:
        version = f"{self.version[0]}.{self.version[1]}.0"
        ping = {"build_version": self.build_version, "version": version, "pid": os.getpid()}
        return json.dumps({**ping, "features": ["io_uring", "kvm"]}).encode()


_METHODS = {
    **dict.fromkeys(("vmm.ping", "vm.info"), "GET"),
    **dict.fromkeys(
        (
            *("vmm.shutdown", "vm.create", "vm.boot", "vm.pause", "vm.resume", "vm.snapshot"),
            *("vm.restore", "vm.shutdown", "vm.delete", "vm.receive-migration"),
        ),
        "PUT",
    ),
}
_BODIES = frozenset({"vm.create", "vm.snapshot", "vm.restore", "vm.receive-migration"})


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        order: dict[str, Any] = json.loads(body)
    except ValueError as exc:
        raise ApiError("Failed to deserialize JSON", str(exc), kind="request") from exc
    return order


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes] | None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = await reader.readline()
        if not line:
            return None
        head += line
    lines = head.decode().split("\r\n")
    method, path, _version = lines[0].split(" ")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    size = int(headers.get("content-length", "0"))
    assert size <= _BODY_MAX_BYTES, "the real one answers 413 and hangs up"
    return method, path, await reader.readexactly(size) if size else b""


def _response(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"
    if status != 204:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def open_api(option: str, version: Version) -> socket.socket:
    """The listening socket: inherited, or made beside a lock that goes with the process."""
    kind, _, value = option.partition("=")
    if kind == "fd":
        return socket.socket(fileno=int(value))
    path = value if kind == "path" else option
    if version >= (53, 0):
        _lock(path)
    elif os.path.exists(path):
        raise SystemExit(f"Error: Error creating API server socket: {path} is there")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    return listener


def _lock(path: str) -> None:
    """An OFD lock, as of fcntl(2); the descriptor stays open for as long as we live."""
    fd = os.open(f"{path}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.fcntl(fd, _F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    except OSError as exc:
        raise SystemExit(f"Error: API socket {path} is already in use") from exc
    if os.path.exists(path):
        os.unlink(path)  # of one that died


def parse(arguments: list[str]) -> dict[str, str]:
    """The options that are known; --version stands alone."""
    if "--version" in arguments:
        return {"--version": ""}
    known = ("--api-socket", "--event-monitor", "--log-file", "--seccomp")
    pairs = dict(zip(arguments[::2], arguments[1::2], strict=True))
    if unknown := set(pairs) - set(known):
        raise SystemExit(f"error: unexpected argument '{min(unknown)}' found")
    return pairs


async def serve(settings: dict[str, Any], options: dict[str, str]) -> None:
    """Until vmm.shutdown, or killed."""
    events = Events(options.get("--event-monitor"))
    events.emit("vmm", "starting")
    server = Server(settings, events)
    listener = open_api(options["--api-socket"], server.version)
    async with await asyncio.start_unix_server(server.connected, sock=listener):
        await asyncio.Event().wait()


def main(directory: Path, arguments: list[str]) -> None:
    settings = json.loads((directory / "stand-in.json").read_bytes())
    options = parse(arguments)
    if "--version" in options:
        print(f"cloud-hypervisor {settings['version']}")
        return
    if "die_at_start" in settings.get("faults", ()):
        raise SystemExit("Error: Failed to open hypervisor interface: /dev/kvm is not there")
    if "no_memory_at_start" in settings.get("faults", ()):
        raise SystemExit("Error: Failed to start: Cannot allocate memory (os error 12)")
    asyncio.run(serve(settings, options))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
