"""Tell what the status of a Pod says of the machine it had."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

from agentd.node.pod_status import CONTAINER_SCHEME, Stage, Termination
from agentd.node.pod_types import Pod
from controlplane.api.meta import JsonObject

CAPTURED: Final = "Captured"
_STEADY_S: Final = 600.0


def derive_machine_id(pod_uid: str, restarts: int) -> str:
    """The id of a Pod's machine, as short as those of other sessions."""
    return f"p-{hashlib.sha256(f'{pod_uid}:{restarts}'.encode()).hexdigest()[:16]}"


def remember(pod: Pod) -> dict[str, object]:
    """What an earlier agentd wrote into the Pod's status."""
    found: list[JsonObject] = pod.status.get("containerStatuses") or []
    known: dict[str, object] = {}
    if not found:
        return known
    status = found[0]
    known["restarts"] = int(status.get("restartCount") or 0)
    known["machine_id"] = str(status.get("containerID") or "").removeprefix(CONTAINER_SCHEME)
    known["image_id"] = str(status.get("imageID") or "")
    state = status.get("state") or {}
    known["started_at"] = _moment((state.get("running") or {}).get("startedAt"))
    gone = state.get("terminated") or {}
    if gone.get("reason") == CAPTURED:
        finished = _moment(gone.get("finishedAt")) or datetime.fromtimestamp(0, UTC)
        known["stage"] = Stage.CAPTURED
        known["ended"] = Termination(
            str(known["machine_id"]), 0, CAPTURED, "", _moment(gone.get("startedAt")), finished
        )
    return known


def _moment(text: object) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def was_steady(ended: Termination) -> bool:
    """It ran long enough for its restarts to begin anew."""
    ran = ended.started_at and (ended.finished_at - ended.started_at).total_seconds()
    return bool(ran and ran >= _STEADY_S)
