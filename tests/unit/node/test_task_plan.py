"""What a node does about a task: every refusal, every wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from agentd.node.task_plan import owner_of, plan_task, retry_delay_s
from agentd.node.task_types import Create, Decision, Delete, Ignore, Observed, Report, Wait
from agentd.providers.driver import LocalArtifact
from controlplane.api import names
from controlplane.api.core import Pod, Sandbox
from controlplane.api.keys import key_id
from controlplane.api.types import (
    ArtifactPhase,
    SandboxSnapshot,
    SandboxSnapshotTask,
    SnapshotMode,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
PROVIDER = "snapstart.qemu.org"
KEY = "python-0123456789-fork-g1-r1"
FORK = frozenset({SnapshotMode.FORK})


def make(kind: type, **body: Any) -> Any:
    return msgspec.convert(body, kind, strict=False)


def task(status: dict[str, Any] | None = None, **spec: Any) -> SandboxSnapshotTask:
    whole = {
        "snapshotRef": {"apiGroup": names.GROUP, "kind": "SandboxSnapshot", "name": "python"},
        "snapshotUID": "snap-uid",
        "snapshotMode": "Fork",
        "targetSandboxRef": {"apiGroup": names.SANDBOX_GROUP, "kind": "Sandbox", "name": "build"},
        "targetNodeName": "node-a",
        "providerName": PROVIDER,
        "snapshotKey": KEY,
        "snapshotHash": "sha256:1",
        **spec,
    }
    meta = {"name": "task", "namespace": "team", "uid": "t", "creationTimestamp": NOW}
    found: SandboxSnapshotTask = make(SandboxSnapshotTask, metadata=meta, spec=whole, status=status)
    return found


def snapshot(**meta: Any) -> SandboxSnapshot:
    spec = {
        "snapshotMode": "Fork",
        "sourceRef": {"kind": "SandboxTemplate", "name": "t"},
        "snapshotClassName": "c",
    }
    metadata = {"name": "python", "namespace": "team", "uid": "snap-uid", **meta}
    found: SandboxSnapshot = make(SandboxSnapshot, metadata=metadata, spec=spec)
    return found


def sandbox(*, is_ready: bool = True, **meta: Any) -> Sandbox:
    metadata = {
        "name": "build",
        "namespace": "team",
        "uid": "sandbox-uid",
        "labels": {names.TEMPLATE_SANDBOX: "true", names.SNAPSHOT_KEY_ID: key_id(KEY)},
        "annotations": {names.SNAPSHOT_HASH: "sha256:1"},
        "ownerReferences": [{"kind": "SandboxSnapshot", "uid": "snap-uid", "controller": True}],
        **meta,
    }
    ready = {"type": "Ready", "status": "True" if is_ready else "False"}
    found: Sandbox = make(Sandbox, metadata=metadata, status={"conditions": [ready]})
    return found


def pod(
    phase: str = "Running", node: str = "node-a", owner: str = "sandbox-uid", **meta: Any
) -> Pod:
    owners = [{"kind": "Sandbox", "uid": owner, "controller": True}]
    metadata = {
        "name": "build", "namespace": "team", "uid": "pod-uid", "ownerReferences": owners, **meta,
    }  # fmt: skip
    status = {"phase": phase, "message": "it broke" if phase == "Failed" else ""}
    found: Pod = make(Pod, metadata=metadata, spec={"nodeName": node}, status=status)
    return found


def seen(**changes: Any) -> Observed:
    whole = Observed(
        task=task(),
        node_name="node-a",
        cluster="c-1",
        capabilities={PROVIDER: FORK},
        snapshot=snapshot(),
        sandbox=sandbox(),
        pod=pod(),
    )
    return replace(whole, **changes)


def artifact(**changes: Any) -> LocalArtifact:
    whole = LocalArtifact(KEY, "sha256:1", SnapshotMode.FORK, True, 0, NOW, owner_of(seen()))
    return replace(whole, **changes)


def test_a_build_that_waits_is_ordered() -> None:
    decision = plan_task(seen(), NOW)
    assert isinstance(decision, Create)
    request = decision.request
    assert (request.pod_uid, request.key, request.snapshot_hash) == ("pod-uid", KEY, "sha256:1")
    assert (request.owner.cluster, request.owner.namespace) == ("c-1", "team")
    assert (request.owner.snapshot_name, request.owner.snapshot_uid) == ("python", "snap-uid")


IGNORED: dict[str, Callable[[], Observed]] = {
    "of another node": lambda: seen(node_name="node-b"),
    "ready": lambda: seen(task=task({"phase": "Ready"})),
    "failed": lambda: seen(task=task({"phase": "Failed"})),
    "unavailable": lambda: seen(task=task({"phase": "Unavailable"})),
    "without its snapshot": lambda: seen(snapshot=None),
    "of an earlier snapshot of that name": lambda: seen(snapshot=snapshot(uid="other")),
    "whose snapshot goes": lambda: seen(snapshot=snapshot(deletionTimestamp=NOW)),
}


@pytest.mark.parametrize("case", IGNORED)
def test_a_task_is_left_alone(case: str) -> None:
    assert isinstance(plan_task(IGNORED[case](), NOW), Ignore)


FAILED: dict[str, tuple[Callable[[], Observed], str]] = {
    "no key": (lambda: seen(task=task(snapshotKey="")), "lacks snapshotKey"),
    "no hash": (lambda: seen(task=task(snapshotHash="")), "lacks snapshotHash"),
    "no uid": (lambda: seen(task=task(snapshotUID="")), "lacks snapshotUID"),
    "no provider": (lambda: seen(task=task(providerName="")), "lacks providerName"),
    "unknown provider": (lambda: seen(task=task(providerName="x")), "not configured"),
    "mode": (lambda: seen(task=task(snapshotMode="Resume")), "mode Resume"),
    "no snapshot": (
        lambda: seen(task=task(snapshotRef={"kind": "Pod", "name": "x"})), "snapshotRef names",
    ),
    "no sandbox": (
        lambda: seen(
            task=task(targetSandboxRef={"apiGroup": "apps", "kind": "Deployment", "name": "x"})
        ),
        "targetSandboxRef names",
    ),
    "foreign sandbox": (lambda: seen(sandbox=sandbox(ownerReferences=[])), "not controlled"),
    "sandbox of another snapshot": (
        lambda: seen(
            sandbox=sandbox(
                ownerReferences=[{"kind": "SandboxSnapshot", "uid": "other", "controller": True}]
            )
        ),
        "not controlled",
    ),
    "session": (lambda: seen(sandbox=sandbox(labels={})), "no build Sandbox"),
    "session label": (
        lambda: seen(
            sandbox=sandbox(
                labels={
                    names.TEMPLATE_SANDBOX: "true",
                    names.SNAPSHOT_KEY_ID: key_id(KEY),
                    names.SESSION_ID: "s",
                }
            )
        ),
        "labels of a session",
    ),
    "other key": (
        lambda: seen(
            sandbox=sandbox(labels={names.TEMPLATE_SANDBOX: "true", names.SNAPSHOT_KEY_ID: "x"})
        ),
        "another key",
    ),
    "other hash": (
        lambda: seen(sandbox=sandbox(annotations={names.SNAPSHOT_HASH: "sha256:2"})),
        "another hash",
    ),
    "pod of somebody else": (lambda: seen(pod=pod(owner="x")), "not controlled by the Sandbox"),
    "pod elsewhere": (lambda: seen(pod=pod(node="node-b")), "runs on node 'node-b'"),
    "pod that failed": (lambda: seen(pod=pod("Failed")), "has ended: it broke"),
    "pod that failed, sandbox unready": (
        lambda: seen(sandbox=sandbox(is_ready=False), pod=pod("Failed")), "has ended",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILED)
def test_a_task_that_cannot_be_done_fails_with_the_reason(case: str) -> None:
    observe, words = FAILED[case]
    decision = plan_task(observe(), NOW)
    assert isinstance(decision, Report)
    assert decision.phase is ArtifactPhase.FAILED
    assert words in decision.message


WAITING: dict[str, tuple[Callable[[], Observed], str]] = {
    "no sandbox": (lambda: seen(sandbox=None, pod=None), "is not there"),
    "sandbox not ready": (lambda: seen(sandbox=sandbox(is_ready=False)), "is not ready"),
    "no pod": (lambda: seen(pod=None), "Pod is not there"),
    "pod pending": (lambda: seen(pod=pod("Pending")), "is not running"),
    "pod going": (lambda: seen(pod=pod(deletionTimestamp=NOW)), "is not running"),
    "provider away": (lambda: seen(capabilities={PROVIDER: frozenset()}), "cannot Fork here now"),
    "driver away": (lambda: seen(artifact_problem="no answer"), "no answer"),
}


@pytest.mark.parametrize("case", WAITING)
def test_what_may_come_is_waited_for_until_the_deadline(case: str) -> None:
    observe, words = WAITING[case]
    decision = plan_task(observe(), NOW)
    assert isinstance(decision, Wait)
    assert words in decision.message
    late = plan_task(observe(), NOW + timedelta(minutes=15))
    assert isinstance(late, Report)
    assert late.phase is ArtifactPhase.FAILED
    assert words in late.message


def test_a_pod_that_takes_its_time_is_told_only_when_that_lasts() -> None:
    for starting in (seen(pod=None), seen(pod=pod("Pending"), sandbox=sandbox(is_ready=False))):
        early = plan_task(starting, NOW + timedelta(seconds=60))
        assert isinstance(early, Wait)
        assert early.event == ""
        late, later = (plan_task(starting, NOW + timedelta(seconds=s)) for s in (61, 600))
        assert isinstance(late, Wait)
        assert late.event == "PodUIDNotFound"
        assert late.message != early.message, "the same message would not be told again"
        assert later == late, "it is told once"


def test_an_artifact_that_is_there_is_not_built_again() -> None:
    gone = seen(artifact=artifact(), sandbox=None, pod=None)
    assert plan_task(gone, NOW) == Report(ArtifactPhase.READY, event="SnapshotCreated")


OTHERS: dict[str, Callable[[], LocalArtifact]] = {
    "hash": lambda: artifact(snapshot_hash="sha256:2"),
    "owner": lambda: artifact(owner=None),
    "damage": lambda: artifact(is_ready=False),
    "mode": lambda: artifact(mode=None),
}


@pytest.mark.parametrize("case", OTHERS)
def test_an_artifact_that_differs_is_no_success(case: str) -> None:
    assert isinstance(plan_task(seen(artifact=OTHERS[case]()), NOW), Create)
    inspection = seen(task=task(operation="Inspect"), artifact=OTHERS[case]())
    decision = plan_task(inspection, NOW)
    assert isinstance(decision, Report)
    assert decision.phase is ArtifactPhase.FAILED


def tried(attempts: int, ago_s: float) -> SandboxSnapshotTask:
    at = NOW - timedelta(seconds=ago_s)
    return task({"phase": "Creating", "message": "no room", "attempts": attempts, "observedAt": at})


def test_defect_61_the_delay_follows_the_attempts_not_the_age() -> None:
    assert [retry_delay_s(n) for n in (1, 2, 3, 9)] == [10, 20, 40, 300]
    early = plan_task(seen(task=tried(2, 5.0)), NOW)
    assert early == Wait("no room", 15.0)
    assert isinstance(plan_task(seen(task=tried(2, 20.0)), NOW), Create)


def test_attempts_end_with_the_deadline() -> None:
    late = plan_task(seen(task=tried(3, 100.0)), NOW + timedelta(minutes=16))
    assert isinstance(late, Report)
    assert late.phase is ArtifactPhase.FAILED


# -- the other operations -------------------------------------------------------------------------


def outcome(operation: str, **changes: Any) -> Decision:
    return plan_task(seen(task=task(operation=operation), sandbox=None, pod=None, **changes), NOW)


def test_inspection_never_takes_an_error_for_an_absence() -> None:
    assert outcome("Inspect", artifact=artifact()) == Report(ArtifactPhase.READY)
    missing = outcome("Inspect")
    assert isinstance(missing, Report)
    assert missing.phase is ArtifactPhase.FAILED
    assert isinstance(outcome("Inspect", artifact_problem="no answer"), Wait)
    late = seen(task=task(operation="Inspect"), artifact_problem="no answer")
    assert isinstance(plan_task(late, NOW + timedelta(hours=1)), Wait)


def test_deletion_works_without_the_snapshot() -> None:
    assert outcome("Delete", artifact=artifact(), snapshot=None) == Delete(KEY)
    assert outcome("Delete", snapshot=None) == Report(ArtifactPhase.READY)


def test_deletion_spares_what_belongs_to_others() -> None:
    other = replace(owner_of(seen()), snapshot_uid="other")
    for spared in (artifact(owner=other), artifact(owner=None)):
        decision = outcome("Delete", artifact=spared)
        assert isinstance(decision, Report)
        assert decision.phase is ArtifactPhase.FAILED
