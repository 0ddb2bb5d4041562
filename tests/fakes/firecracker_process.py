"""Stand in for Firecracker: its command line, its HTTP interface, its way to end.

Run as `python firecracker_process.py DIRECTORY ARGUMENT...`; DIRECTORY has stand-in.json. One
request is served at a time. Imports nothing of the product.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parent))
from firecracker_memory import FaultError  # type: ignore[import-not-found]
from firecracker_vm import FORMATS, FatalError, Version, Vmm  # type: ignore[import-not-found]
from firecracker_vsock import Vsock  # type: ignore[import-not-found]

_BODY_MAX_BYTES = 51200
_ARGUMENTS = {
    **dict.fromkeys(("--api-sock", "--id", "--log-path", "--level"), True),
    **dict.fromkeys(("--show-level", "--version", "--snapshot-version"), False),
}
_LOAD = ("snapshot_path", "mem_file_path", "mem_backend", "enable_diff_snapshots", "resume_vm")
_FIELDS = {
    "/machine-config": ("vcpu_count", "mem_size_mib", "smt", "cpu_template", "track_dirty_pages"),
    "/boot-source": ("kernel_image_path", "initrd_path", "boot_args"),
    "/vsock": ("vsock_id", "guest_cid", "uds_path"),
    "/actions": ("action_type",),
    "/vm": ("state",),
    "/snapshot/create": ("snapshot_type", "snapshot_path", "mem_file_path"),
}


def load_fields(version: Version) -> tuple[str, ...]:
    """What a version knows of PUT /snapshot/load."""
    fields = _LOAD
    if version >= (1, 12, 0):
        fields += ("network_overrides",)
    if version >= (1, 13, 0):
        fields += ("track_dirty_pages",)
    if version >= (1, 16, 0):
        fields += ("vsock_override",)
    if version >= (1, 16, 0) or version[1:] in ((14, 4), (15, 1)):
        fields += ("clock_realtime",)
    return fields


class Server:
    """The interface of one process."""

    def __init__(self, settings: dict[str, Any], instance: str, log: Any) -> None:
        self.settings = settings
        self.version: Version = tuple(map(int, settings["version"].split(".")))  # type: ignore[assignment]
        self._instance = instance
        self._log = log
        self._vmm = Vmm(self.version, settings, self._changed)
        self._vsock = Vsock(self._vmm)
        self._turn = asyncio.Lock()

    def _changed(self) -> None:
        if self._vmm.state != "Running":
            self._vsock.follow()
            return
        # The first fault of a guest may have to wait for a page server, which answers nobody who
        # waits for us.
        asyncio.get_running_loop().call_later(0, self._vsock.follow)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader)) is not None:
                async with self._turn:
                    await self._serve(*request, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve(
        self, method: str, path: str, headers: dict[str, str], body: bytes, writer: Any
    ) -> None:
        name = f"{method} {path}"
        if name in self.settings.get("hangs", ()):
            await asyncio.Event().wait()
        if name in self.settings.get("dies", {}):
            sys.stdout.flush()
            os._exit(self.settings["dies"][name])
        if name in self.settings.get("says", {}):
            writer.write(self.settings["says"][name].encode())
            await writer.drain()
            return
        status, answer, is_fatal = self._answer(method, path, headers, body)
        writer.write(_response(status, answer))
        await writer.drain()
        if is_fatal:
            self._end(1, "Failed to build MicroVM: Loading snapshot failed..")

    def _answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, Any] | None, bool]:
        try:
            if body and headers.get("content-type") != "application/json":
                raise FaultError("Invalid header: Content-Type")
            return *self._carry_out(method, path, body), False
        except FaultError as exc:
            self._log(f"Received Error. Status code: 400 Bad Request. Message: {exc}")
            return 400, {"fault_message": str(exc)}, isinstance(exc, FatalError)

    def _carry_out(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any] | None]:
        if (method, path) == ("GET", "/"):
            version = ".".join(map(str, self.version))
            known = {"id": self._instance, "state": self._vmm.state, "vmm_version": version}
            return 200, {**known, "app_name": "Firecracker"}
        if method == "GET" or not self._is_known(method, path):
            name = path.strip("/").split("/")[0]
            raise FaultError(f"Invalid request method and/or path: {method} {name}.")
        if not body:
            raise FaultError(f"Empty {method} request.")
        self._order(path, self._decoded(path, body))
        return 204, None

    @staticmethod
    def _is_known(method: str, path: str) -> bool:
        known = {*_FIELDS, "/snapshot/load"}
        return path in known and (method == "PATCH") == (path == "/vm")

    def _decoded(self, path: str, body: bytes) -> dict[str, Any]:
        failed = "An error occurred when deserializing the json body of a request: "
        try:
            order: dict[str, Any] = json.loads(body)
        except ValueError as exc:
            raise FaultError(f"{failed}{exc}.") from exc
        known = _FIELDS.get(path) or load_fields(self.version)
        for name in order:
            if name not in known:
                raise FaultError(f"{failed}unknown field `{name}`, expected one of {known}.")
        if path == "/snapshot/load" and ("mem_backend" in order) == ("mem_file_path" in order):
            raise FaultError(f"{failed}missing field: either `mem_backend` or `mem_file_path`.")
        return order

    def _order(self, path: str, order: dict[str, Any]) -> None:
        match path:
            case "/actions":
                if order["action_type"] != "InstanceStart":
                    raise FaultError("the stand-in knows no other action")
                self._vmm.start()
            case "/vm":
                self._vmm.move(order["state"])
            case "/snapshot/create":
                self._vmm.save(order)
            case "/snapshot/load":
                self._vmm.load(order)
            case _:
                self._vmm.configure(path[1:], order)

    def _end(self, status: int, why: str) -> NoReturn:
        self._log(why)
        self._log(f"Firecracker exiting with error. exit_code={status}")
        os._exit(status)


async def _read_request(
    reader: asyncio.StreamReader,
) -> tuple[str, str, dict[str, str], bytes] | None:
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
    assert "transfer-encoding" not in headers, "the real one does not know it"
    return method, path, headers, await reader.readexactly(size) if size else b""


def _response(status: int, answer: dict[str, Any] | None) -> bytes:
    head = f"HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
    body = b""
    if answer is not None:
        body = json.dumps(answer).encode()
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def parse(arguments: list[str]) -> dict[str, str]:
    """The options; what is not known ends the process as it ends the real one."""
    found: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if word not in _ARGUMENTS:
            print(f'Error: ParseArguments(UnexpectedArgument("{word[2:]}"))', file=sys.stderr)
            raise SystemExit(153)
        found[word] = next(words) if _ARGUMENTS[word] else ""
    return found


def serve(settings: dict[str, Any], options: dict[str, str]) -> None:
    """Until killed. The socket's file must not exist, and nobody removes it."""
    fd = os.open(options["--log-path"], os.O_RDWR)  # before v1.14 it has to be there

    def log(text: str) -> None:
        os.write(fd, f"[{options['--id']}:main:ERROR] {text}\n".encode())

    assert all(letter.isalnum() or letter == "-" for letter in options["--id"])
    if os.path.lexists(options["--api-sock"]):
        log("Failed to open the API socket. Check that it is not already used.")
        raise SystemExit(1)
    for name in settings.get("litter", ()):
        Path(options["--api-sock"]).with_name(name).touch()
    asyncio.run(listen(settings, options, log))


async def listen(settings: dict[str, Any], options: dict[str, str], log: Any) -> None:
    server = Server(settings, options["--id"], log)
    await asyncio.sleep(settings.get("binds_after_s", 0))
    path = options["--api-sock"]
    async with await asyncio.start_unix_server(server.connected, path):
        await asyncio.Event().wait()


def main(directory: Path, arguments: list[str]) -> None:
    settings = json.loads((directory / "stand-in.json").read_bytes())
    options = parse(arguments)
    if "--version" in options:
        print(f"Firecracker v{settings['version']}\n")
    elif "--snapshot-version" in options:
        print(f"v{FORMATS[int(settings['version'].split('.')[1])]}.0.0")
    elif (status := settings.get("exits_at_start")) is not None:
        print("Error: the stand-in was told to end", file=sys.stderr)
        raise SystemExit(status)
    else:
        serve(settings, options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
