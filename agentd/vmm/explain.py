"""Add to a failure what QEMU itself printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agentd.errors import ErrorCode, SnapStartError, TransientError
from agentd.vmm.machine import LOG_FILE

_TAIL_BYTES: Final = 2048
_CONSOLE_CHARS: Final = 2000  # a panic with its call trace
# How QEMU words a failed allocation of guest RAM or of its own memory.
_NO_MEMORY: Final = ("Cannot allocate memory", "cannot set up guest memory", "out of memory")


def read_log_tail(run_dir: Path) -> str:
    """The last lines that QEMU printed, joined; empty when there are none."""
    try:
        with (run_dir / LOG_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def describe_failure(message: str, what: str, log: str) -> str:
    """What was attempted, what came back, QEMU's own words."""
    return f"{what}: {message}; QEMU said: {log}" if log else f"{what}: {message}"


def add_log(message: str, log: str) -> str:
    """A failure with the last words of a monitor."""
    return f"{message}; the monitor said: {log}" if log else message


def add_console(message: str, console: str) -> str:
    """A failure with the last text of a guest's console."""
    said = console.strip()[-_CONSOLE_CHARS:]
    return f"{message}; its console said last: {said!r}" if said else message


def is_out_of_memory(log: str) -> bool:
    """True when QEMU says that the host had no memory for it."""
    return any(words in log for words in _NO_MEMORY)


@contextmanager
def explain(run_dir: Path, what: str) -> Iterator[None]:
    """Let failures of the block say what QEMU printed; a lack of memory becomes its own error."""
    try:
        yield
    except SnapStartError as exc:
        log = read_log_tail(run_dir)
        message = describe_failure(exc.message, what, log)
        if is_out_of_memory(log):
            raise TransientError(
                ErrorCode.NO_MEMORY, message, hint="end sessions or add memory", delay_s=5.0
            ) from exc
        exc.message, exc.args = message, (message,)
        raise
