"""Count under callgrind: twice as many calls against so many, so that the start-up cancels out."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentd.errors import ErrorCode, PermanentError
from bench.compare.process import last_words, running
from bench.instructions.series import SERIES
from bench.machine import ROOT

# Both fixed, so that every run takes the same way through its dictionaries.
_ENV = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}


def count_all(names: list[str]) -> dict[str, float]:
    """Instructions of one call, by series. Raises: PermanentError."""
    if shutil.which("valgrind") is None:
        raise PermanentError(
            ErrorCode.PACKAGES_UNAVAILABLE,
            "counting instructions: there is no program named valgrind",
            hint="deploy/install-system-packages valgrind",
        )
    return {name: count(name) for name in names}


def count(name: str) -> float:
    """Instructions of one call. Raises: PermanentError when the series cannot be run.

    Both runs at once: another process disturbs times, not counts.
    """
    calls = SERIES[name][1]
    with (
        tempfile.TemporaryDirectory(prefix="snapstart-instructions-") as place,
        ExitStack() as all_,
    ):
        runs = [Run(name, calls * factor, Path(place)) for factor in (1, 2)]
        processes = [all_.enter_context(run.started()) for run in runs]
        statuses = [process.wait() for process in processes]
        once, twice = (run.total(status) for run, status in zip(runs, statuses, strict=True))
    return (twice - once) / calls


@dataclass(frozen=True)
class Run:
    """So many calls under callgrind, with its files in a directory."""

    name: str
    calls: int
    directory: Path

    @property
    def _out(self) -> Path:
        return self.directory / f"{self.calls}.out"

    @property
    def _log(self) -> Path:
        return self.directory / f"{self.calls}.log"

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """The process."""
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self._out}"]
        program = [sys.executable, "-m", "bench.instructions.series", self.name, str(self.calls)]
        argv = [*valgrind, *program]
        with self._log.open("wb") as words, running(argv, ROOT, _ENV, words.fileno()) as process:
            yield process

    def total(self, status: int) -> int:
        """Its instructions. Raises: PermanentError."""
        if status:
            raise PermanentError(
                ErrorCode.INTERNAL,
                f"counting the instructions of {self.name}: status {status}: "
                f"{last_words(self._log)}",
                hint=f"without callgrind: python -m bench.instructions.series {self.name} 1",
            )
        return read_total(self._out.read_text(errors="replace"))


def read_total(text: str) -> int:
    """The instructions of a whole run, as callgrind's file says. Raises: PermanentError."""
    if found := re.search(r"^(?:totals|summary): (\d+)", text, re.M):
        return int(found[1])
    raise PermanentError(
        ErrorCode.INTERNAL,
        f"counting instructions: callgrind's file has no total, it begins with {text[:100]!r}",
        hint="look whether valgrind knows this processor",
    )
