"""Write events to standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, Final, TextIO

import structlog

# Steps that every session repeats; an operator asks for them by level debug.
_WARNING_SUFFIXES: Final = (".failed", ".lost", ".refused", ".ended_early", ".needs_restart")
_INFO_EVENTS: Final = (
    "daemon.", "template.", "adoption.", "session.ready", "session.ended", "pager.found",
    "pager.started", "working_set.", "node.", "kuasar.", "sweep.", "pod.replaced", "pod.stuck",
    "trace.export.",
)  # fmt: skip


def configure_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Set up structlog for the process.

    Args: level: debug, info, warning or error. form: json or text. stream: None is stderr.
    """
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"])
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(_Lossy(stream or sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


class _Lossy:
    """A stream that drops what cannot be written: a full disk must not end what is logged."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class LogTracer:
    """Turns each step of the engine into one log line."""

    def __init__(self) -> None:
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

    def step(self, event: str, /, **details: str | int | float) -> None:
        """Write one line at the level that the event's name calls for."""
        level = choose_level(event)
        self._log.log(level, event, **{key: _short(value) for key, value in details.items()})


def choose_level(event: str) -> int:
    """The level of an event by its name."""
    if event.endswith(_WARNING_SUFFIXES):
        return logging.WARNING
    if event.startswith(_INFO_EVENTS):
        return logging.INFO
    return logging.DEBUG


def _short(value: str | int | float) -> str | int | float:
    return round(value, 3) if isinstance(value, float) else value
