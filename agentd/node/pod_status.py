"""Say a Pod's status as a kubelet would."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from agentd.node.pod_spec import Refusal
from agentd.node.pod_types import Pod
from controlplane.api.meta import JsonObject

CONTAINER_SCHEME: Final = "snapstart://"
_OURS: Final = ("Initialized", "ContainersReady", "Ready")


class Stage(enum.StrEnum):
    """Where a Pod's machine is.

    WAITING: none yet, or again. READY: its guest's gate is open, or of a build its guest waits.
    CAPTURED: of a build, it has become an artifact. ENDED: for good.
    """

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    CAPTURED = "captured"
    ENDED = "ended"


@dataclass(frozen=True)
class Termination:
    """How a machine ended."""

    machine_id: str
    exit_code: int
    reason: str
    message: str
    started_at: datetime | None
    finished_at: datetime


@dataclass(frozen=True)
class PodView:
    """What a Pod's status is made from.

    machine_id: of the machine that there is, or was last. reason, message: why it waits. ended: how
    the last machine ended. restarts: how many there were before the present one.
    """

    stage: Stage
    machine_id: str = ""
    image_id: str = ""
    started_at: datetime | None = None
    reason: str = ""
    message: str = ""
    ended: Termination | None = None
    restarts: int = 0
    pod_ip: str = ""
    host_ip: str = ""


def choose_restart(policy: str, exit_code: int) -> bool:
    """True if a machine that ended is followed by another one."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def choose_backoff_s(restarts: int) -> float:
    """Seconds before a restart: 10, doubled up to 300, as a kubelet's."""
    return min(10.0 * 2.0 ** min(restarts, 10), 300.0)


def make_status(pod: Pod, view: PodView, now: datetime) -> JsonObject:
    """The members of the status that a node writes. now: for transitions."""
    is_ready = view.stage is Stage.READY
    status: JsonObject = {
        "phase": _phase(view),
        "reason": None,
        "message": None,
        "startTime": pod.status.get("startTime") or _time(now),
        "conditions": _conditions(pod, is_ready, now),
        "containerStatuses": [_container(pod, view, is_ready)],
    }
    if view.stage is Stage.ENDED and view.ended is not None and view.ended.exit_code:
        status["message"] = view.ended.message
    if view.host_ip:
        status |= {"hostIP": view.host_ip, "hostIPs": [{"ip": view.host_ip}]}
    if view.pod_ip:
        status |= {"podIP": view.pod_ip, "podIPs": [{"ip": view.pod_ip}]}
    return status


def refused_status(pod: Pod, refusal: Refusal, now: datetime) -> JsonObject:
    """The status of a Pod that never runs here."""
    return {
        "phase": "Failed",
        "reason": refusal.reason,
        "message": refusal.message,
        "startTime": pod.status.get("startTime") or _time(now),
    }


def needs_write(pod: Pod, wanted: JsonObject) -> bool:
    """False if the server has all of it already; null stands for an absent member."""
    return any(pod.status.get(member) != value for member, value in wanted.items())


def _phase(view: PodView) -> str:
    match view.stage:
        case Stage.ENDED:
            is_good = view.ended is not None and view.ended.exit_code == 0
            return "Succeeded" if is_good else "Failed"
        case Stage.READY | Stage.CAPTURED:
            return "Running"
        case _:
            return "Running" if view.restarts or view.ended is not None else "Pending"


def _conditions(pod: Pod, is_ready: bool, now: datetime) -> list[JsonObject]:
    found = {str(one.get("type")): one for one in pod.status.get("conditions") or ()}
    gates = [gate.condition_type for gate in pod.spec.readiness_gates or ()]
    closed = [name for name in gates if (found.get(name) or {}).get("status") != "True"]
    reasons = {
        "Initialized": "",
        "ContainersReady": "" if is_ready else "ContainersNotReady",
        "Ready": ("ReadinessGatesNotReady" if closed else "") if is_ready else "ContainersNotReady",
    }
    others = [one for name, one in found.items() if name not in _OURS]
    return others + [_condition(name, reasons[name], found.get(name), now) for name in _OURS]


def _condition(kind: str, reason: str, before: JsonObject | None, now: datetime) -> JsonObject:
    status = "False" if reason else "True"
    is_same = before is not None and before.get("status") == status
    since = before.get("lastTransitionTime") if before is not None and is_same else None
    condition: JsonObject = {
        **{key: before[key] for key in ("lastProbeTime", "observedGeneration")
           if before is not None and key in before},
        "type": kind,
        "status": status,
        "lastTransitionTime": since or _time(now),
    }  # fmt: skip
    return condition | ({"reason": reason} if reason else {})


def _container(pod: Pod, view: PodView, is_ready: bool) -> JsonObject:
    container = pod.spec.containers[0]
    is_running = view.stage is Stage.READY
    status: JsonObject = {
        "name": container.name,
        "image": container.image,
        "imageID": view.image_id,
        "ready": is_ready,
        "started": is_running,
        "restartCount": view.restarts,
        "state": _state(view),
        "lastState": {},
    }
    if view.machine_id:
        status["containerID"] = CONTAINER_SCHEME + view.machine_id
    if view.ended is not None and view.stage not in (Stage.ENDED, Stage.CAPTURED):
        status["lastState"] = {"terminated": _terminated(view.ended)}
    return status


def _state(view: PodView) -> JsonObject:
    if view.stage is Stage.READY:
        return {"running": {"startedAt": _time(view.started_at)}}
    if view.stage in (Stage.ENDED, Stage.CAPTURED) and view.ended is not None:
        return {"terminated": _terminated(view.ended)}
    waiting = {"reason": view.reason or "ContainerCreating", "message": view.message}
    return {"waiting": {key: value for key, value in waiting.items() if value}}


def _terminated(ended: Termination) -> JsonObject:
    said = {
        "exitCode": ended.exit_code,
        "reason": ended.reason,
        "message": ended.message,
        "startedAt": _time(ended.started_at),
        "finishedAt": _time(ended.finished_at),
        "containerID": CONTAINER_SCHEME + ended.machine_id if ended.machine_id else "",
    }
    return {key: value for key, value in said.items() if value not in ("", None)}


def _time(moment: datetime | None) -> str | None:
    """metav1.Time: whole seconds, UTC."""
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
