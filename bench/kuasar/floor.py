"""Run the raw client: a C program that is told when to make its next call."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.machine import ROOT

REQUEST = '{"action":"template-list"}\n'
_SOURCE = Path(__file__).with_name("raw_client.c")


class RawClient:
    """One process that makes one call at a time; `with` starts and ends it."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def __enter__(self) -> Self:
        program = ROOT / "build" / "raw_client"
        argv = ["cc", "-std=gnu11", "-O2", str(_SOURCE), "-o", str(program)]
        program.parent.mkdir(exist_ok=True)
        subprocess.run(argv, check=True)
        pipe = subprocess.PIPE
        argv = [str(program), str(self._socket), REQUEST]
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe)
        return self

    def call_us(self) -> float:
        """Make one call. Returns: microseconds from socket(2) to the end of the reply."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b".")
        self._process.stdin.flush()
        took_ns, _ = self._process.stdout.readline().split()
        return int(took_ns) / 1e3

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
