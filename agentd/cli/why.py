"""Explain how a session's Sandbox started."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

import msgspec

from controlplane.api import names
from controlplane.api.builds import is_marked_build
from controlplane.api.core import Pod, Sandbox


class Start(enum.StrEnum):
    """How it started. ASKED: the runtime has not said what became of the restore intent."""

    RESTORED = "restored"
    COLD = "cold"
    ASKED = "asked to restore"
    STARTING = "starting"
    BUILD = "build"


class Explanation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known. reason: one of the words that metrics use. key: the restore intent."""

    sandbox: str
    namespace: str
    start: Start
    reason: str = ""
    text: str = ""
    key: str = ""
    node: str = ""
    pod: str = ""
    events: tuple[str, ...] = ()


_TEXTS: Final = {
    "no_snapshot": "no SandboxSnapshot in this namespace has the session's template as its source",
    "not_ready": "the SandboxSnapshot of its template was not Ready",
    "store_disabled": "the control plane has no artifact store",
    "store_error": "the artifact store could not be asked",
    "store_timeout": "the artifact store did not answer in time",
    "no_active_set": "the snapshot had no version in service, as after a change of its source",
    "hash_mismatch": "the session's pod differs from what the snapshot was taken of",
    "no_ready_artifact": "no node had a usable artifact",
    "manifest_corrupt": "the snapshot's record in the store cannot be read",
    "warm_pool": "it was claimed from a warm pool, which decides by itself",
    "artifact_missing": "its node has no such artifact; other nodes may",
    "wrong_namespace": "the artifact belongs to another namespace or cluster",
    "wrong_mode": "the artifact is not for forks",
    "artifact_unusable": "the artifact on its node is damaged, or of another monitor",
    "restore_failed": "the restore was tried and failed",
}


def explain_start(sandbox: Sandbox, pod: Pod | None, events: Sequence[str] = ()) -> Explanation:
    """What is known of a Sandbox's start. events: warnings about its Pod, oldest first."""
    key = sandbox.spec.pod_template.metadata.annotations or {}
    start, reason = _classify(sandbox, pod)
    return Explanation(
        sandbox=sandbox.metadata.name,
        namespace=sandbox.metadata.namespace,
        start=start,
        reason=reason,
        text=_text(start, reason),
        key=key.get(names.SNAPSHOT_KEY, ""),
        node=pod.node_name if pod else sandbox.status.node_name,
        pod=pod.metadata.name if pod else "",
        events=tuple(events),
    )


def _classify(sandbox: Sandbox, pod: Pod | None) -> tuple[Start, str]:
    annotations = sandbox.spec.pod_template.metadata.annotations or {}
    if is_marked_build(sandbox.metadata):
        return Start.BUILD, ""
    said = pod.metadata.annotation(names.STARTED_FROM) if pod else ""
    if said == names.FROM_SNAPSHOT:
        return Start.RESTORED, ""
    if said == names.FROM_IMAGE and pod is not None:
        why = pod.metadata.annotation(names.STARTED_FROM_REASON)
        return Start.COLD, why or _reason_before(sandbox)
    if not annotations.get(names.SNAPSHOT_KEY):
        return Start.COLD, _reason_before(sandbox)
    has_run = pod is not None and pod.status.phase not in ("", "Pending")
    return (Start.ASKED if has_run else Start.STARTING), ""


def _reason_before(sandbox: Sandbox) -> str:
    """Why no intent was put in; the webhook is silent when there was nothing to look up."""
    return sandbox.metadata.annotation(names.COLD_START_REASON) or "no_snapshot"


def _text(start: Start, reason: str) -> str:
    if start is Start.BUILD:
        return "it is a build Sandbox: a snapshot is taken of it, nobody uses it"
    if start is Start.ASKED:
        return "its node's runtime restores by itself and does not report; see its logs"
    if start is Start.STARTING:
        return "its Pod has not started yet"
    if start is Start.RESTORED:
        return "it is a fork of the snapshot"
    return _TEXTS.get(reason, "")
