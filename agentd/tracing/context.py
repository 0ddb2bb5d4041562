"""Know which trace the work in progress belongs to (W3C Trace Context)."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

_SAMPLED: Final = 1
# Version 00 has exactly four fields; later ones may have more behind them.
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True)
class TraceContext:
    """A span, as others name it. trace_id, span_id: 32 and 16 hex digits, not all zero."""

    trace_id: str
    span_id: str
    is_sampled: bool = True

    @property
    def traceparent(self) -> str:
        """The header or annotation that hands it on."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"


def parse_traceparent(text: str) -> TraceContext | None:
    """What a stranger's header or annotation names; None if it is none that may be followed."""
    found = _FORM.fullmatch(text)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5] is not None):
        return None
    trace_id, span_id = found[2], found[3]
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED))


def new_context(parent: TraceContext | None) -> TraceContext:
    """A span's own: in its parent's trace, or the first of a new one."""
    span_id = secrets.token_hex(8)
    if parent is None:
        return TraceContext(secrets.token_hex(16), span_id)
    return TraceContext(parent.trace_id, span_id, parent.is_sampled)


# Tasks take it over from whoever starts them.
_current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)


def current() -> TraceContext | None:
    """What the work in progress is part of, None if nobody said."""
    return _current.get()


def enter(traceparent: str) -> None:
    """The rest of this task, and what it starts, is part of that; nothing if it names no span."""
    if traceparent:
        _current.set(parse_traceparent(traceparent))
