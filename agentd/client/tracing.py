"""Let the daemon take part in the trace that the calling program is in."""

from __future__ import annotations

import sys
from types import ModuleType


def trace_headers() -> dict[str, str]:
    """W3C's traceparent of OpenTelemetry's current span; nothing where there is none.

    A program that has not imported OpenTelemetry has no span, so it is not imported here.
    """
    trace: ModuleType | None = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    flags = int(context.trace_flags) & 0xFF
    return {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"}
