"""Say which span a build is, in the trace of all builds of its snapshotKey.

Derived, so that whoever leads says the same: annotations while it runs, the span once it is over.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from agentd.tracing import Span, TraceContext
from controlplane.api import names
from controlplane.api.keys import digest
from controlplane.api.manifest import Artifact
from controlplane.api.types import ArtifactPhase, SandboxSnapshot
from controlplane.snapshots.policy import Policy

_SERVICE: Final = "snapstart-controlplane"


def context_of(snapshot: SandboxSnapshot, artifact: Artifact) -> TraceContext:
    """The span of one attempt on one node."""
    uid, key = snapshot.metadata.uid, artifact.snapshot_key
    trace_id = digest("trace", uid, key)[:32]
    span_id = digest("span", uid, key, artifact.node_name, str(artifact.attempt))[:16]
    return TraceContext(trace_id, span_id)


def trace_annotations(
    snapshot: SandboxSnapshot, artifact: Artifact, policy: Policy
) -> dict[str, str]:
    """What an attempt's task and Pod carry; nothing without traces."""
    if not policy.is_traced:
        return {}
    return {names.TRACEPARENT: context_of(snapshot, artifact).traceparent}


def build_span(snapshot: SandboxSnapshot, artifact: Artifact, now: datetime) -> Span | None:
    """An attempt that is over; None for one of whose beginning nothing is known."""
    if artifact.started_at is None:
        return None
    is_ready = artifact.phase is ArtifactPhase.READY
    ended_at = (artifact.created_at if is_ready else None) or now
    return Span(
        _SERVICE,
        "snapshot.build",
        context_of(snapshot, artifact),
        "",
        _ns(artifact.started_at),
        max(_ns(artifact.started_at), _ns(ended_at)),
        {
            "snapstart.namespace": snapshot.metadata.namespace,
            "snapstart.snapshot": snapshot.metadata.name,
            "snapstart.key": artifact.snapshot_key,
            "snapstart.node": artifact.node_name,
            "snapstart.provider": artifact.provider_name,
            "snapstart.attempt": artifact.attempt,
        },
        "" if is_ready else artifact.message or artifact.phase.value,
    )


def _ns(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6) * 1000
