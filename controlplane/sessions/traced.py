"""Put the decision on a session into the trace of its start."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from agentd.tracing import Sink, Span, TraceContext, current, new_context, parse_traceparent
from controlplane.api import names
from controlplane.sessions.decision import Decision
from controlplane.sessions.mutate import FindIntent
from controlplane.sessions.session import SessionStart

_SERVICE: Final = "snapstart-controlplane"


def traced(find: FindIntent, sink: Sink) -> FindIntent:
    """The same lookup; its answer names the span that the session's start goes on from."""

    async def found(session: SessionStart) -> Decision:
        parent = current() or _parent(session)
        context = new_context(parent)
        parent_id = "" if parent is None else parent.span_id
        begun_ns, begun = time.time_ns(), time.monotonic_ns()
        said, error = {"snapstart.namespace": session.namespace}, "given up"
        try:
            decision = await find(session)
            error = ""
            said |= {"snapstart.reason": decision.reason.value, "snapstart.key": decision.key or ""}
            return replace(decision, traceparent=context.traceparent)
        except Exception as exc:
            error = str(exc)
            raise
        finally:
            end_ns = begun_ns + time.monotonic_ns() - begun
            name = "session.decide"
            sink(Span(_SERVICE, name, context, parent_id, begun_ns, end_ns, said, error))

    return found


def _parent(session: SessionStart) -> TraceContext | None:
    """What the session's author wrote: it chooses a trace, and nothing else."""
    annotations = session.spec.pod_template.metadata.annotations or {}
    return parse_traceparent(annotations.get(names.TRACEPARENT, ""))
