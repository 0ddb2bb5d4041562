"""Stand in for a VMM with its guest: one process that serves the guest protocol on a socket.

Run as `python vm_process.py MARKER SOCKET PREPARE_FILE FAULTS`; an empty PREPARE_FILE is a guest at
its checkpoint. Speaks the protocol by `guest_channel`; imports nothing of the product.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from guest_channel import FakeGuest, FakeStream  # type: ignore[import-not-found]


class Guest:
    """What runs in the fake machine."""

    def __init__(self, prepare: dict[str, Any] | None, faults: frozenset[str]) -> None:
        self.gate = "closed" if prepare is None else "open"
        context = json.loads(prepare["context"]) if prepare else {}
        self.identity = {key: context.get(key) for key in ("session_id", "hostname", "metadata")}
        self.environment = prepare["env_overrides"] if prepare else {}
        self.files: dict[str, bytes] = {
            name: __import__("base64").b64decode(data)
            for name, data in context.get("files", {}).items()
        }
        self.faults = faults
        self.namespace: dict[str, Any] = {}
        self.count = 0
        self.interrupted = asyncio.Event()
        self.turn = asyncio.Lock()
        self.hang_up = lambda: None
        self.write = lambda data: None
        self.looks = 0

    def services(self) -> dict[str, Any]:
        """By name."""
        found = {
            "status": self.status,
            "checkpoint": self.checkpoint,
            "execute": self.execute,
            "files": self.serve_files,
            "signal": self.signal,
            "http": self.http,
        }
        return {name: serve for name, serve in found.items() if f"no_{name}" not in self.faults}

    def report(self) -> dict[str, Any]:
        """The `status` message."""
        is_dirty = "contaminated" in self.faults
        self.looks += 1
        is_restless = "restless" in self.faults and self.looks < 4
        process = {"pid": 1, "ppid": 0, "name": "init", "cmdline": "init", "threads": 1}
        reasons = [{"kind": "socket", "detail": "tcp to somewhere"}] if is_dirty else []
        return {
            "checkpoint": "InterpreterReady",
            "safeToSnapshot": self.gate == "closed" and not (is_dirty or is_restless),
            "userStateLoaded": self.gate == "open",
            "activeTasks": 0,
            "details": {
                "interpreterState": "idle",
                "workspaceEmpty": not self.files,
                "preloadedPackages": ["numpy"],
            },
            "gate": self.gate,
            "reasons": reasons,
            "processes": [process],
            "baseline_processes": [process],
            "runtime": {"version": "0", "python": "3.11.2", "kernel": "6.1"},
        }

    async def status(self, stream: FakeStream) -> None:
        await stream.send_message(self.report())
        stream.close()

    async def checkpoint(self, stream: FakeStream) -> None:
        await stream.read_message()
        if "die_at_baseline" in self.faults:
            os._exit(3)
        if "hang_at_baseline" in self.faults:
            await asyncio.Event().wait()
        await self.status(stream)

    async def signal(self, stream: FakeStream) -> None:
        operation = (await stream.read_message())["op"]
        if operation == "interrupt":
            self.interrupted.set()
        elif operation == "restart":
            self.namespace.clear()
            self.count = 0
        await stream.send_message({"type": "done"})
        stream.close()

    async def execute(self, stream: FakeStream) -> None:
        if self.gate == "closed":
            stream.reset("gate_closed")
            return
        request = await stream.read_message()
        async with self.turn:
            self.count += 1
            end = await self.run(stream, request["code"])
        await stream.send_message(
            {"type": "end", "execution_count": self.count, "duration_s": 0.0, **end}
        )
        stream.close()

    async def run(self, stream: FakeStream, code: str) -> dict[str, Any]:
        """Run code in this process; `wait` waits for an interrupt after a first output."""
        if code == "wait":
            await stream.send_message({"type": "stdout", "text": "waiting\n"})
            self.interrupted.clear()
            await self.interrupted.wait()
            return {"status": "interrupted"}
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output):
                exec(code, {"__builtins__": __builtins__, "guest": self}, self.namespace)
        except Exception as exc:
            await stream.send_message(
                {
                    "type": "error",
                    "name": type(exc).__name__,
                    "value": str(exc),
                    "traceback": traceback.format_exc().splitlines(),
                }
            )
            return {"status": "error"}
        if output.getvalue():
            await stream.send_message({"type": "stdout", "text": output.getvalue()})
        return {"status": "ok"}

    async def serve_files(self, stream: FakeStream) -> None:
        operation, path = stream.params["op"], stream.params["path"]
        if operation == "put":
            self.files[path] = await stream.read_all()
            await stream.send_message({"type": "done", "size": len(self.files[path])})
        elif operation == "list":
            entries = [
                {"path": name, "kind": "file", "size": len(data), "mtime_s": 0.0}
                for name, data in self.files.items()
            ]
            await stream.send_message({"type": "entries", "entries": entries})
        elif path not in self.files:
            await stream.send_message({"type": "failed", "code": "not_found", "message": path})
        elif operation == "remove":
            del self.files[path]
            await stream.send_message({"type": "done"})
        else:
            await stream.send_message({"type": "file", "size": len(self.files[path])})
            await stream.send(self.files[path])
        stream.close()

    async def http(self, stream: FakeStream) -> None:
        """Answer one request with its own head."""
        head = bytearray()
        while b"\r\n\r\n" not in head:
            data = await stream.read()
            if not data:
                stream.close()
                return
            head += data
        first = head.split(b"\r\n", 1)[0]
        await stream.send(
            b"HTTP/1.1 207 Fine\r\nX-Guest: yes\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(first), first)
        )
        stream.close()


async def main(socket: str, prepare: dict[str, Any] | None, faults: frozenset[str]) -> None:
    """Serve until killed."""
    if "die_at_start" in faults:
        print("fake monitor: the device is gone", file=sys.stderr, flush=True)
        os._exit(3)
    if "mute" in faults:
        await asyncio.Event().wait()
    guest = Guest(prepare, faults)
    async with FakeGuest(Path(socket), guest.services()) as port:
        guest.hang_up = port.hang_up
        guest.write = port.write
        await asyncio.Event().wait()


if __name__ == "__main__":
    identity = json.loads(Path(sys.argv[3]).read_bytes()) if sys.argv[3] else None
    asyncio.run(main(sys.argv[2], identity, frozenset(sys.argv[4].split(","))))
