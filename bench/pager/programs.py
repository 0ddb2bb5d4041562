"""Build the programs that are measured, talk to them."""

from __future__ import annotations

import enum
import json
import select
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from agentd.errors import ErrorCode, PermanentError, TransientError
from bench.machine import ROOT

BUILD: Final = ROOT / "build" / "bench-pager"
PAGER: Final = BUILD / "native" / "snap-pager"
_SOURCES: Final = Path(__file__).parent
_PROGRAMS: Final = {
    "vm": ["vm.c", "vm_memory.c", "vm_touch.c"],
    "raw_pager": ["raw_pager.c"],
    "page_cache": ["page_cache.c"],
}
# Nothing that is measured takes a second; a page server that loses a machine leaves it waiting.
_PATIENCE_S: Final = 60.0


def build_programs() -> None:
    """Compile the benchmark's own programs, then the page server if it is older than its source."""
    BUILD.mkdir(parents=True, exist_ok=True)
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    for name, sources in _PROGRAMS.items():
        paths = [str(_SOURCES / source) for source in sources]
        _run(["cc", *flags, *paths, "-o", str(BUILD / name)])
    _run(["make", "--no-print-directory", "-C", str(ROOT / "native"), f"O={PAGER.parent}", "pager"])


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = (done.stdout + done.stderr).strip()[-2000:]
        raise PermanentError(
            ErrorCode.INTERNAL,
            f"running {argv[0]!r} of {shutil.which(argv[0])!r}: status {done.returncode}: {words}",
            hint="the lines above say what it lacks",
        )
    return done.stdout


def build_working_set(
    image: Path, digest: str, records: Sequence[Path], out: Path
) -> dict[str, Any]:
    """Have the page server merge records. Returns: what it says of the set."""
    budget = ["--budget-pages", "65536"]
    argv = [str(PAGER), "working-set", "--image", str(image), "--digest", digest]
    argv += ["--out", str(out), *budget, *map(str, records)]
    found: dict[str, Any] = json.loads(_run(argv))
    return found


class Cache(enum.StrEnum):
    """How files are in the page cache; page_cache.c says what the words mean."""

    COLD = "cold"
    PIECES = "pieces"
    WHOLE = "whole"


def set_page_cache(state: Cache, *files: Path) -> list[int]:
    """Put files into a state. Returns: resident pages of each."""
    found: list[int] = json.loads(_run([str(BUILD / "page_cache"), state, *map(str, files)]))
    return found


class Program:
    """A process that answers lines with JSON lines; `with` starts and ends it."""

    def __init__(self, name: str, *arguments: str, fds: Sequence[int] = ()) -> None:
        self.name = name
        self._argv = [str(BUILD / name), *arguments]
        self._fds = fds

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._argv, stdin=pipe, stdout=pipe, bufsize=0, pass_fds=self._fds
        )
        try:
            self.read()  # that it is ready
        except BaseException:
            self._end()
            raise
        return self

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def write(self, line: str) -> None:
        """Tell it to do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def read(self) -> dict[str, Any]:
        """The next line it says."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _PATIENCE_S)[0]:
            raise self._failure(f"it said nothing for {_PATIENCE_S:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failure(f"it ended with status {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, line: str) -> dict[str, Any]:
        """write(), then read()."""
        self.write(line)
        return self.read()

    def stop(self) -> None:
        """Have it end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_PATIENCE_S)

    def _failure(self, words: str) -> TransientError:
        return TransientError(
            ErrorCode.INTERNAL,
            f"running {self.name!r} {self._argv[1:3]}: {words}",
            hint="its words are on standard error, the page server's in its log",
        )

    def _end(self) -> None:
        with self._process:
            self._process.kill()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
