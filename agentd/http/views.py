"""Show the engine's objects as messages."""

from __future__ import annotations

from agentd.engine.session import Session
from agentd.engine.template import Template, rfc3339
from agentd.http.codec import error_body
from agentd.store.load import Verified
from agentd.wire import api


def view_template(template: Template, sessions: int) -> api.Template:
    """A template as callers see it. sessions: its live forks."""
    return api.Template(
        name=template.name,
        state=template.state,
        stage=template.stage,
        progress=template.progress,
        image=template.image,
        memory_mib=template.machine.memory_mib,
        vcpus=template.machine.vcpus,
        created_at=template.created_at,
        size_bytes=template.size_bytes,
        sessions=sessions,
        stages_ms=dict(template.stages_ms),
        error=None if template.error is None else error_body(template.error),
    )


def view_verification(checked: Verified, duration_s: float) -> api.Verification:
    """What was checked, for callers."""
    manifest = checked.manifest
    return api.Verification(
        name=manifest.name,
        template_id=manifest.template_id,
        sha256=checked.sha256,
        has_record=checked.is_recorded,
        memory_bytes=manifest.memory.size_bytes,
        data_bytes=manifest.memory.data_bytes,
        device_state_bytes=manifest.device_state.size_bytes,
        duration_s=duration_s,
    )


def view_session(session: Session, *, loop_now_s: float, now_s: float) -> api.Session:
    """A session as callers see it. loop_now_s, now_s: the same moment by both clocks."""
    facts = session.facts
    used_s = now_s - (loop_now_s - session.last_used_s) if session.last_used_s else 0.0
    return api.Session(
        id=session.id,
        template=facts.template,
        mode=facts.mode,
        state=session.state,
        pid=0 if session.machine is None else session.machine.vm.record.pid,
        created_at=rfc3339(facts.created_at_s),
        expires_at=rfc3339(facts.expires_at_s),
        last_used_at=rfc3339(used_s) if used_s else "",
        ended_reason=session.ended_reason,
        hostname=facts.hostname,
        stages_ms=facts.stages_ms,
        metadata=facts.metadata,
    )
