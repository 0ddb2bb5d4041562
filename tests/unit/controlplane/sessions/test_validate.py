from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.sessions.index import SessionIndex
from controlplane.sessions.metrics import SessionMetrics
from controlplane.sessions.validate import ObjectValidator
from tests.fakes.session_world import make_class, make_index, make_snapshot

CONTROLLER = "system:serviceaccount:snapstart:snapstart-controlplane"


def judge(
    kind: str,
    body: JsonObject | None,
    *,
    old: JsonObject | None = None,
    index: SessionIndex | None = None,
    user: str = "alice",
    operation: str = "",
    group: str = names.GROUP,
    **request: Any,
) -> str:
    """Why it is refused, empty if it is admitted."""
    full = {
        "uid": "r",
        "operation": operation or ("UPDATE" if old else "CREATE"),
        "kind": {"group": group, "version": "v1alpha1", "kind": kind},
        "userInfo": {"username": user},
        "object": body,
        "oldObject": old,
        **request,
    }
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": full}
    metrics = SessionMetrics(CollectorRegistry())
    validator = ObjectValidator(index or make_index(), metrics, frozenset({CONTROLLER}))
    response = json.loads(validator.answer(json.dumps(review).encode()))["response"]
    assert response["uid"] == "r"
    if response["allowed"]:
        return ""
    message: str = response["status"]["message"]
    return message


def body_of(value: Any) -> JsonObject:
    found: JsonObject = msgspec.to_builtins(value)
    return found


SNAPSHOT = body_of(make_snapshot("one"))
RESUME_SOURCE = {"apiGroup": "agents.x-k8s.io", "kind": "Sandbox", "name": "s"}
RESUME = body_of(make_snapshot("two", snapshotMode="Resume", sourceRef=RESUME_SOURCE))


def test_a_good_snapshot_is_admitted() -> None:
    assert judge("SandboxSnapshot", SNAPSHOT) == ""


def test_resume_is_refused_with_a_clear_message() -> None:
    assert "mode Resume is not implemented yet; use Fork" in judge("SandboxSnapshot", RESUME)


def test_a_class_without_the_mode_is_refused() -> None:
    index = make_index()
    spec = {"providerName": "p.example", "supportedSnapshotModes": ["Resume"]}
    index.put_class(
        msgspec.convert({"metadata": {"name": "qemu"}, "spec": spec}, type(make_class()))
    )
    assert "supports Resume, not Fork" in judge("SandboxSnapshot", SNAPSHOT, index=index)


def test_a_class_that_is_not_there_yet_is_no_reason_to_refuse() -> None:
    assert judge("SandboxSnapshot", SNAPSHOT, index=SessionIndex()) == ""


def test_the_source_cannot_change() -> None:
    other = body_of(make_snapshot("one", template="other"))
    assert "sourceRef cannot be changed" in judge("SandboxSnapshot", other, old=SNAPSHOT)


def test_a_finalizer_comes_off_whatever_the_spec_says() -> None:
    going = {
        **RESUME,
        "metadata": {**RESUME["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"},
    }
    assert judge("SandboxSnapshot", going, old=RESUME) == ""
    labelled = {**RESUME, "metadata": {**RESUME["metadata"], "labels": {"a": "b"}}}
    assert judge("SandboxSnapshot", labelled, old=RESUME) == ""


READY = "kuasar.io/warm-fork-ready-protocol-version"


@pytest.mark.parametrize(
    ("build", "refusal"),
    [
        ({READY: "1"}, ""),
        ({}, f"spec.buildPodAnnotations[{READY}]"),
        ({READY: "1", "kuasar.io/template-id": "x"}, "buildPodAnnotations[kuasar.io/template-id]"),
    ],
    ids=["good", "unmarked", "selector"],
)
@pytest.mark.parametrize("operation", ["CREATE", "UPDATE"])
def test_a_class_that_kuasar_cannot_serve_is_refused(
    operation: str, build: dict[str, str], refusal: str
) -> None:
    new = body_of(make_class(provider="snapstart.kuasar.io"))
    old = copy.deepcopy(new) if operation == "UPDATE" else None
    new["spec"]["buildPodAnnotations"] = build
    found = judge("SnapshotClass", new, old=old)
    assert (refusal in found) if refusal else not found


def test_a_mode_in_use_cannot_be_dropped_from_its_class() -> None:
    old, new = body_of(make_class()), body_of(make_class())
    new["spec"]["supportedSnapshotModes"] = ["Resume"]
    index = make_index(make_snapshot())
    assert "live snapshots use Fork" in judge("SnapshotClass", new, old=old, index=index)
    assert judge("SnapshotClass", new, old=old, index=make_index()) == ""
    going = make_index(make_snapshot(terminating=True))
    assert judge("SnapshotClass", new, old=old, index=going) == ""


TASK: JsonObject = {
    "metadata": {"name": "t", "namespace": "team-a"},
    "spec": {
        "snapshotRef": {"apiGroup": names.GROUP, "kind": "SandboxSnapshot", "name": "s"},
        "snapshotUID": "u",
        "snapshotMode": "Fork",
        "targetSandboxRef": {"apiGroup": names.SANDBOX_GROUP, "kind": "Sandbox", "name": "b"},
        "targetNodeName": "node-a",
        "providerName": "snapstart.qemu.org",
        "snapshotKey": "key-1",
        "snapshotHash": "sha256:" + "a" * 64,
    },
}


def test_only_the_controller_creates_tasks() -> None:
    assert "only the snapshot controller creates tasks" in judge("SandboxSnapshotTask", TASK)
    assert judge("SandboxSnapshotTask", TASK, user=CONTROLLER) == ""


def test_a_task_cannot_be_changed_by_anyone() -> None:
    other = {**TASK, "spec": {**TASK["spec"], "snapshotKey": "key-2"}}
    refusal = judge("SandboxSnapshotTask", other, old=TASK, user=CONTROLLER)
    assert "cannot be changed" in refusal


@pytest.mark.parametrize("kind", ["CodeInterpreter", "AgentRuntime"])
@pytest.mark.parametrize(
    "key",
    [
        names.SNAPSHOT_KEY,
        "kuasar.io/task-id",
        "kuasar.io/template-key",
        "kuasar.io/template-id",
        "kuasar.io/pod-uid",
        "kuasar.io/workload-generation",
    ],
)
def test_a_runtime_may_not_choose_what_its_sessions_restore(kind: str, key: str) -> None:
    body = {"metadata": {"name": "r"}, "spec": {"template": {"annotations": {key: "x"}}}}
    assert f"spec.template.annotations[{key}]" in judge(kind, body)
    nested = {"spec": {"podTemplate": {"metadata": {"annotations": {key: "x", "a": "b"}}}}}
    assert f"spec.podTemplate.metadata.annotations[{key}]" in judge(kind, nested)


def test_other_annotations_of_a_runtime_are_free() -> None:
    body = {"spec": {"template": {"annotations": {"example.org/a": "b"}}}}
    assert judge("CodeInterpreter", body) == ""


def test_a_snapshot_that_cannot_be_read_is_refused_with_the_member() -> None:
    body = {**SNAPSHOT, "spec": {**SNAPSHOT["spec"], "snapshotMode": "Clone"}}
    assert "$.spec.snapshotMode" in judge("SandboxSnapshot", body)


def test_an_old_object_that_cannot_be_read_binds_nobody() -> None:
    assert judge("SandboxSnapshot", SNAPSHOT, old={"spec": {"snapshotMode": "Clone"}}) == ""


@pytest.mark.parametrize(
    "request_",
    [{"operation": "DELETE"}, {"subResource": "status"}],
    ids=["delete", "status"],
)
def test_what_writes_no_spec_is_not_judged(request_: dict[str, Any]) -> None:
    assert judge("SandboxSnapshot", RESUME, **request_) == ""


def test_objects_of_other_groups_are_not_ours() -> None:
    assert judge("SandboxSnapshot", RESUME, group="example.org") == ""


def test_what_is_no_review_is_admitted_and_counted() -> None:
    registry = CollectorRegistry()
    validator = ObjectValidator(make_index(), SessionMetrics(registry), frozenset())
    assert json.loads(validator.answer(b"{"))["response"] == {"uid": "", "allowed": True}
    counted = registry.get_sample_value(
        "agentcube_snapstart_admission_errors_total", {"reason": "malformed"}
    )
    assert counted == 1
