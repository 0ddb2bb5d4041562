"""Judge what a task is to snapshot: only a build of its own snapshot, on this node, that waits."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from agentd.node.task_types import Decision, Observed, Report, Wait
from controlplane.api import names
from controlplane.api.builds import PROTOCOL_NOT_SUPPORTED, is_marked_build
from controlplane.api.core import Pod, Sandbox
from controlplane.api.keys import key_id
from controlplane.api.meta import ObjectMeta
from controlplane.api.types import ArtifactPhase, SandboxSnapshotTaskSpec

# Every build's Pod takes a while to start: only one that takes longer is told of.
_POD_GRACE: Final = timedelta(seconds=60)


def check_target(seen: Observed, now: datetime) -> Decision | None:
    """What keeps the target from being snapshotted now, or ever; None: nothing."""
    return (
        _check_sandbox(seen.sandbox, seen.task.spec) or _check_pod(seen, now) or _check_ready(seen)
    )


def _check_sandbox(sandbox: Sandbox | None, spec: SandboxSnapshotTaskSpec) -> Decision | None:
    reference = spec.target_sandbox_ref
    if (reference.api_group, reference.kind) != (names.SANDBOX_GROUP, "Sandbox"):
        return _failed(f"targetSandboxRef names a {reference.kind!r} of {reference.api_group!r}")
    what = f"Sandbox {reference.name!r}"
    if sandbox is None:
        return Wait(f"{what} is not there")
    if problem := _why_no_build(sandbox.metadata, spec):
        return _failed(f"{what} {problem}")
    if sandbox.metadata.is_terminating:
        return _failed(f"{what} is being deleted")
    return None


def _check_ready(seen: Observed) -> Decision | None:
    assert seen.sandbox is not None
    if seen.sandbox.is_ready:
        return None
    return Wait(f"Sandbox {seen.sandbox.metadata.name!r} is not ready")


def _why_no_build(meta: ObjectMeta, spec: SandboxSnapshotTaskSpec) -> str:
    """A session's Sandbox, or another snapshot's, must never become an artifact."""
    owner = meta.controller
    if owner is None or owner.kind != "SandboxSnapshot" or owner.uid != spec.snapshot_uid:
        return "is not controlled by this snapshot"
    if not is_marked_build(meta):
        return "is no build Sandbox"
    if any(meta.label(label) for label in names.SESSION_LABELS):
        return "carries the labels of a session"
    if meta.label(names.SNAPSHOT_KEY_ID) != key_id(spec.snapshot_key):
        return "was made for another key"
    if meta.annotation(names.SNAPSHOT_HASH) not in ("", spec.snapshot_hash):
        return "was made for another hash"
    return ""


def _check_pod(seen: Observed, now: datetime) -> Decision | None:
    sandbox, pod = seen.sandbox, seen.pod
    assert sandbox is not None
    if pod is None or not pod.metadata.uid:
        return _wait_for_pod("the Sandbox's Pod is not there", seen, now)
    what = f"Pod {pod.metadata.name!r}"
    owner = pod.metadata.controller
    if owner is None or owner.uid != sandbox.metadata.uid:
        return _failed(f"{what} is not controlled by the Sandbox")
    if pod.node_name != seen.node_name:
        return _failed(f"{what} runs on node {pod.node_name!r}")
    if pod.status.phase in ("Succeeded", "Failed"):
        said = f": {pod.status.message}" if pod.status.message else ""
        return _failed(f"{what} has ended{said}")
    if why := _why_hopeless(pod):
        return _failed(why)
    if pod.metadata.is_terminating or pod.status.phase != "Running":
        return _wait_for_pod(f"{what} is not running", seen, now)
    return None


def _wait_for_pod(what: str, seen: Observed, now: datetime) -> Wait:
    """Told once: the message stays the same then."""
    if now - (seen.task.metadata.creation_timestamp or now) <= _POD_GRACE:
        return Wait(what)
    return Wait(f"{what} after {_POD_GRACE.total_seconds():.0f} s", event="PodUIDNotFound")


def _why_hopeless(pod: Pod) -> str:
    """Its machine was tried, and no later attempt can go better."""
    for container in pod.status.container_statuses or ():
        waiting = container.state.waiting
        if waiting is not None and waiting.reason == PROTOCOL_NOT_SUPPORTED:
            return f"{PROTOCOL_NOT_SUPPORTED}: {waiting.message}"
    return ""


def _failed(message: str) -> Report:
    return Report(ArtifactPhase.FAILED, message, "DriverCreateFailed")
