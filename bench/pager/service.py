"""Run the page server under its supervisor, as a node does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from agentd.errors import ErrorCode, TransientError
from bench.pager.programs import BUILD, PAGER

_PATIENCE_S: Final = 30.0
LOG: Final = BUILD / "pager.log"


class Service:
    """The page server; `with` starts and stops it. Its sockets and its journal are on a tmpfs."""

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-pager-", dir="/dev/shm"))
        self.control = self.directory / "control"
        journal = self.directory / "journal"
        journal.mkdir(mode=0o700)
        argv = [str(PAGER), "supervise", "--control", str(self.control), "--journal", str(journal)]
        self._socket: socket.socket | None = None
        with LOG.open("wb") as log:
            self._process = subprocess.Popen(argv, stderr=log, stdin=subprocess.DEVNULL)
        try:
            self.hello()
        except BaseException:
            self.close()
            raise
        return self

    @property
    def supervisor_pid(self) -> int:
        """Of the supervisor."""
        return self._process.pid

    def hello(self) -> dict[str, Any]:
        """Its answer to hello, from whoever serves now; waits for a successor."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while True:
            self._disconnect()
            try:
                return self.call("hello")
            except OSError as exc:
                if time.monotonic() > give_up_s:
                    raise self._failure(f"nobody answers on {str(self.control)!r}: {exc}") from exc
                time.sleep(0.01)

    def call(self, op: str, **fields: object) -> dict[str, Any]:
        """One request on the control socket."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(_PATIENCE_S)
            self._socket.connect(str(self.control))
        self._socket.sendall(json.dumps({"op": op, **fields}).encode() + b"\n")
        reply = b""
        while not reply.endswith(b"\n"):
            part = self._socket.recv(1 << 16)
            if not part:
                raise ConnectionResetError("the page server hung up")
            reply += part
        found: dict[str, Any] = json.loads(reply)
        if not found["ok"]:
            raise self._failure(f"it answered {found} to {op!r} {fields}")
        return found

    def machine(self, vm: str) -> dict[str, Any]:
        """What its statistics say of one machine."""
        machines: list[dict[str, Any]] = self.call("stats")["machines"]
        found = [one for one in machines if one["vm"] == vm]
        if not found:
            raise self._failure(f"its statistics do not name {vm!r}")
        return found[0]

    def kill(self) -> int:
        """Kill it as a crash would. Returns: when, CLOCK_MONOTONIC nanoseconds."""
        pid = int(self.hello()["pid"])
        at_ns = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        self._disconnect()
        return at_ns

    def _failure(self, words: str) -> TransientError:
        return TransientError(
            ErrorCode.INTERNAL, f"running the page server: {words}", hint=f"its log is {str(LOG)!r}"
        )

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def close(self) -> None:
        """Stop it; its machines have ended."""
        self._disconnect()
        with self._process:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
