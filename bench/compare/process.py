"""Run a program, its words in a file; end it with all of its children when we are ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# Pytest ends the machines that its tests started.
PATIENCE_S = 60.0


def run_to_log(
    argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], log: Path
) -> int:  # fmt: skip
    """The exit status. What it says is added to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as words, running(argv, cwd, env, words.fileno()) as process:
        return process.wait()


def last_words(log: Path) -> str:
    """The end of what was said, for an error."""
    return log.read_text(errors="replace").strip()[-600:]


@contextmanager
def running(
    argv: Sequence[str | Path],
    cwd: Path,
    env: Mapping[str, str],
    words: int,
    also: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended with its children if it still runs in the end.

    words: a file, borrowed. also: a descriptor that it has under the same number, borrowed.
    """
    process = subprocess.Popen(
        argv, cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=words,
        stderr=words, start_new_session=True, pass_fds=() if also is None else (also,),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It first, so that it may tidy up; whatever is left of its group then."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
