"""One run of libFuzzer on one target, bounded by the CPU time it uses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psutil

from agentd.errors import ErrorCode, PermanentError

from .targets import Target

_LOOK_EVERY_S: Final = 0.2
_STATUS: Final = re.compile(r"^#\d+\s.*\bcov: (\d+) ft: (\d+) corp: (\d+)", re.MULTILINE)
_EXECUTED: Final = re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)
_FLAGS: Final = ("-print_final_stats=1", "-close_fd_mask=2", "-timeout=20", "-rss_limit_mb=1024")
_ENVIRONMENT: Final = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


@dataclass(frozen=True)
class Outcome:
    """What came of fuzzing one target."""

    target: str
    executions: int
    edges: int  # of the compiled code that were reached
    features: int  # edges, how often each was passed, comparisons
    corpus: int
    cpu_s: float
    found: list[str]  # inputs that broke it


def run(target: Target, build: Path, work: Path, cpu_s: float) -> Outcome:
    """Fuzz `target` until it used `cpu_s` seconds of CPU time, at the lowest priority.

    Args: work: where new inputs go, and those that broke it; kept from one run to the next.
    """
    corpus, broke, log = work / "corpus", work / "found", work / "log"
    corpus.mkdir(parents=True, exist_ok=True)
    broke.mkdir(exist_ok=True)
    before = set(broke.iterdir())
    argv = [*_FLAGS, f"-artifact_prefix={broke}/", *_words(target), str(corpus), str(target.kept)]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch, log.open("wb") as out:
        used_s = _run_for(["nice", "-n19", str(target.program(build)), *argv], scratch, out, cpu_s)
    found = sorted(str(path) for path in set(broke.iterdir()) - before)
    return _read(target, log, used_s, found)


def keep(target: Target, build: Path, work: Path) -> int:
    """Add to the repository's inputs the fewest that reach code which they do not.

    Returns: how many.
    """
    before = len(target.inputs())
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        argv = ["-merge=1", "-use_counters=0", "-close_fd_mask=2"]
        argv += [str(target.kept), str(work / "corpus")]
        subprocess.run(
            [str(target.program(build)), *argv],
            env={**os.environ, "TMPDIR": scratch},
            capture_output=True,
            check=True,
        )
    return len(target.inputs()) - before


def _words(target: Target) -> list[str]:
    return [f"-dict={target.dictionary}"] if target.dictionary.exists() else []


def _run_for(argv: list[str], scratch: str, out: IO[bytes], cpu_s: float) -> float:
    """Returns how much CPU time was used: less if it ended by itself, having found something."""
    environment = {**os.environ, **_ENVIRONMENT, "TMPDIR": scratch}
    with subprocess.Popen(argv, env=environment, stdout=out, stderr=subprocess.STDOUT) as process:
        used_s = 0.0
        try:
            while process.poll() is None and used_s < cpu_s:
                time.sleep(_LOOK_EVERY_S)
                used_s = _cpu_s(process.pid, used_s)
            if process.poll() is None:
                process.send_signal(signal.SIGUSR1)  # end with the statistics
        except BaseException:
            process.kill()
            raise
        process.wait()
    return used_s


def _cpu_s(pid: int, last_s: float) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return last_s
    return max(last_s, times.user + times.system)


def _read(target: Target, log: Path, used_s: float, found: list[str]) -> Outcome:
    text = log.read_text(errors="replace")
    executed, status = _EXECUTED.findall(text), _STATUS.findall(text)
    if not executed or not status:
        raise PermanentError(
            ErrorCode.INTERNAL,
            f"fuzzing {target.name}: it ended without having run anything",
            hint=f"its words are in {log}",
        )
    edges, features, corpus = (int(number) for number in status[-1])
    return Outcome(target.name, int(executed[-1]), edges, features, corpus, used_s, found)
