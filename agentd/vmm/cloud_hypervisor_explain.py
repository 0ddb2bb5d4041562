"""Add to a failure what Cloud Hypervisor printed, what it did last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from agentd.errors import ErrorCode, SnapStartError, TransientError
from agentd.vmm.cloud_hypervisor_config import EVENTS_NAME
from agentd.vmm.explain import read_log_tail
from agentd.vmm.launch import DIRECTORY

_TAIL_BYTES: Final = 4096
_NO_MEMORY: Final = "(os error 12)"


class _Event(msgspec.Struct, frozen=True):
    source: str
    event: str


def parse_last_event(text: str) -> str:
    """The last whole event of a monitor's stream, as "vm restoring"; empty when there is none.

    Events are JSON objects of several lines, each with an empty line after it.
    """
    for part in reversed(text.split("\n\n")):
        try:
            last = msgspec.json.decode(part, type=_Event)
        except msgspec.MsgspecError:
            continue
        return f"{last.source} {last.event}"
    return ""


def read_last_event(run_dir: Path) -> str:
    """As `parse_last_event`, of the machine in a run directory."""
    path = run_dir / DIRECTORY / EVENTS_NAME
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        start = max(0, os.fstat(fd).st_size - _TAIL_BYTES)
        return parse_last_event(os.pread(fd, _TAIL_BYTES, start).decode(errors="replace"))
    except OSError:  # it is no file any more
        return ""
    finally:
        os.close(fd)


def describe(message: str, what: str, log: str, event: str) -> str:
    """What was attempted, what came back, the monitor's own words, what it did last."""
    parts = [f"{what}: {message}"]
    if log:
        parts.append(f"the monitor said: {log}")
    if event:
        parts.append(f"its last event: {event}")
    return "; ".join(parts)


@contextmanager
def explained(run_dir: Path, what: str) -> Iterator[None]:
    """Let failures of the block say what the monitor printed."""
    try:
        yield
    except SnapStartError as exc:
        log = read_log_tail(run_dir)
        message = describe(exc.message, what, log, read_last_event(run_dir))
        if _NO_MEMORY in log:
            raise TransientError(
                ErrorCode.NO_MEMORY, message, hint="end sessions or add memory", delay_s=5.0
            ) from exc
        exc.message, exc.args = message, (message,)
        raise
