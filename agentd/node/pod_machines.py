"""Find what the engine runs for Pods."""

from __future__ import annotations

from agentd.engine.engine import Engine
from agentd.engine.held import HeldBuild, HeldState
from agentd.engine.session import Session
from agentd.providers.local import POD_UID


def sessions_of_pods(engine: Engine) -> list[Session]:
    """Every session that a Pod has, oldest first."""
    return [one for one in engine.sessions.list() if POD_UID in one.facts.labels]


def find_session(engine: Engine, pod_uid: str) -> Session | None:
    """The newest session of a Pod."""
    found = [one for one in sessions_of_pods(engine) if one.facts.labels[POD_UID] == pod_uid]
    return found[-1] if found else None


def find_build(engine: Engine, pod_uid: str) -> HeldBuild | None:
    """The held build of a Pod, once it waits."""
    found = (one for one in engine.held.list() if one.labels.get(POD_UID) == pod_uid)
    return next((one for one in found if one.state is not HeldState.STARTING), None)
