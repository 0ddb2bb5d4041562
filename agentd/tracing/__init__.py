"""Say what a piece of work was part of, how long it took: traces for both programs.

Nothing of OpenTelemetry is imported here; `agentd.tracing.otlp` does, once traces are switched on.
"""

from agentd.tracing.context import TraceContext, current, enter, new_context, parse_traceparent
from agentd.tracing.exporter import Exporter, TracingError, check_endpoint
from agentd.tracing.span import Sink, Span

__all__ = [
    "Exporter",
    "Sink",
    "Span",
    "TraceContext",
    "TracingError",
    "check_endpoint",
    "current",
    "enter",
    "new_context",
    "parse_traceparent",
]
