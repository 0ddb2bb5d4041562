"""Hold one piece of work that is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agentd.tracing.context import TraceContext

Value = str | int | float


@dataclass(frozen=True)
class Span:
    """Times are nanoseconds since the epoch.

    service: who did it. parent_id: empty for the first one of a trace. error: why it failed, empty
    if it did not.
    """

    service: str
    name: str
    context: TraceContext
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str = ""


Sink = Callable[[Span], None]  # never waits, never raises
