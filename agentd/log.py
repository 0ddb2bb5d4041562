"""Turn steps into lines of the log."""

from __future__ import annotations

import logging
from typing import Final

import structlog

# Steps that every session repeats; an operator asks for them by level debug.
_WARNING_SUFFIXES: Final = (".failed", ".lost", ".refused", ".ended_early", ".needs_restart")
_INFO_EVENTS: Final = (
    "daemon.", "template.", "adoption.", "session.ready", "session.ended", "pager.found",
    "pager.started", "working_set.", "node.", "kuasar.", "sweep.", "pod.replaced", "pod.stuck",
    "trace.export.",
)  # fmt: skip


class LogTracer:
    """Turns each step of the engine into one log line."""

    def __init__(self) -> None:
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

    def step(self, event: str, /, **details: str | int | float) -> None:
        """Write one line at the level that the event's name calls for."""
        level = choose_level(event)
        if level == logging.DEBUG and not _tells_all():
            return  # most steps; making a logger for each is dearer than looking
        self._log.log(level, event, **{key: _short(value) for key, value in details.items()})


def _tells_all() -> bool:
    """Whether the level in force, which may change while the daemon runs, is debug."""
    in_force = structlog.get_config()["wrapper_class"]
    return in_force is structlog.make_filtering_bound_logger(logging.DEBUG)


def choose_level(event: str) -> int:
    """The level of an event by its name."""
    if event.endswith(_WARNING_SUFFIXES):
        return logging.WARNING
    if event.startswith(_INFO_EVENTS):
        return logging.INFO
    return logging.DEBUG


def _short(value: str | int | float) -> str | int | float:
    return round(value, 3) if isinstance(value, float) else value
