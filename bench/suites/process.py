"""Run the suites: one pytest, with its words in a file, its progress on standard error."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agentd.errors import ErrorCode, PermanentError
from bench.machine import ROOT
from bench.suites.budget import Form
from bench.suites.outcomes import Outcomes
from bench.suites.samples import Benchmark, decode_report

SUITES = Path(__file__).parent
# Statuses of pytest: all passed, some failed; others are no measurement.
_MEASURED = (0, 1)
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Run:
    """What a run left."""

    benchmarks: list[Benchmark]
    outcomes: Outcomes


def run_suites(form: Form, only: Sequence[str], directory: Path) -> Run:
    """Measure in a process of its own; `directory` gets its files.

    only: names of suites; empty for all. Raises: PermanentError when pytest measured nothing.
    """
    report, outcomes = directory / "pytest-benchmark.json", directory / "outcomes.json"
    log = directory / "pytest.log"
    files = [str(SUITES / f"test_{name}.py") for name in only] or [str(SUITES)]
    argv = [sys.executable, "-m", "pytest", "-c", str(SUITES / "pytest.ini"), *files]
    argv += [f"--form={form}", f"--outcomes={outcomes}", f"--benchmark-json={report}"]
    with log.open("wb") as words, _running([*argv, "--benchmark-quiet"], words.fileno()) as pytest:
        status = pytest.wait()
    if status not in _MEASURED or not report.exists() or not report.stat().st_size:
        tail = log.read_text(errors="replace").strip()[-600:]
        raise PermanentError(
            ErrorCode.INTERNAL,
            f"measuring: pytest ended with status {status} and no samples: {tail}",
            hint=f"all of its words are in {log}",
        )
    found = msgspec.json.decode(outcomes.read_bytes(), type=Outcomes)
    return Run(decode_report(report.read_bytes()), found)


@contextmanager
def _running(argv: Sequence[str], stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends its machines itself: it is asked to, once, and waited for."""
    process = subprocess.Popen(argv, cwd=ROOT, stdout=stdout, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
