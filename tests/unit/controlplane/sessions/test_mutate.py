from __future__ import annotations

import asyncio
import base64
import copy
import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.sessions import mutate
from controlplane.sessions.decision import Decision, StartReason, cold
from controlplane.sessions.metrics import SessionMetrics
from controlplane.sessions.mutate import SandboxMutator
from controlplane.sessions.review import PatchStep
from controlplane.sessions.session import SessionStart
from tests.fakes.agent_sandbox import claim_sandbox, pool_sandbox
from tests.fakes.json_patch import apply_patch
from tests.fakes.session_world import NAMESPACE, POD_SPEC, TEMPLATE, sandbox_body

RESTORE = Decision("key-1", StartReason.RESTORED_INTENT, "python-ready")
CONTROLLER = "system:serviceaccount:snapstart:snapstart-controlplane"
FORGED = {names.SNAPSHOT_KEY: "stolen", "kuasar.io/template-key": "stolen"}
TEMPLATE_BODY: JsonObject = {
    "metadata": {"name": TEMPLATE, "namespace": NAMESPACE},
    "spec": {"podTemplate": {"spec": POD_SPEC, "metadata": {"labels": {"app": "python"}}}},
}


class Finder:
    """A lookup that answers as told, and remembers what it was asked."""

    def __init__(self, decision: Decision | Exception) -> None:
        self.decision = decision
        self.asked: list[SessionStart] = []

    async def __call__(self, session: SessionStart) -> Decision:
        self.asked.append(session)
        if isinstance(self.decision, Exception):
            raise self.decision
        return self.decision


class Webhook:
    def __init__(self, decision: Decision | Exception = RESTORE) -> None:
        self.finder = Finder(decision)
        self.registry = CollectorRegistry()
        self.mutator = SandboxMutator(
            self.finder, SessionMetrics(self.registry), frozenset({CONTROLLER})
        )

    async def send(self, body: JsonObject, **request: Any) -> JsonObject:
        """The object as it is stored after the webhook."""
        answer = await self.answer(review(body, **request))
        assert answer["allowed"] is True
        assert answer["uid"] == "review-1"
        patch = json.loads(base64.b64decode(answer.get("patch", "W10=")))
        steps = [PatchStep(**step) for step in patch]
        stored: JsonObject = apply_patch(copy.deepcopy(body), steps)
        return stored

    async def answer(self, body: bytes) -> JsonObject:
        response: JsonObject = json.loads(await self.mutator.answer(body))
        assert response["apiVersion"] == "admission.k8s.io/v1"
        assert response["kind"] == "AdmissionReview"
        found: JsonObject = response["response"]
        return found

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


def review(body: JsonObject, **request: Any) -> bytes:
    full = {
        "uid": "review-1",
        "operation": "CREATE",
        "kind": {"group": names.SANDBOX_GROUP, "version": "v1beta1", "kind": "Sandbox"},
        "resource": {"group": names.SANDBOX_GROUP, "version": "v1beta1", "resource": "sandboxes"},
        "namespace": NAMESPACE,
        "userInfo": {"username": "alice"},
        "object": body,
        "oldObject": None,
        "dryRun": False,
        "options": None,
        **request,
    }
    whole = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": full}
    return json.dumps(whole).encode()


def pod_annotations(body: JsonObject) -> dict[str, Any]:
    return (body["spec"]["podTemplate"].get("metadata") or {}).get("annotations") or {}


async def test_a_new_session_gets_its_intent() -> None:
    webhook = Webhook()
    stored = await webhook.send(sandbox_body())
    assert pod_annotations(stored) == {names.SNAPSHOT_KEY: "key-1"}
    assert webhook.finder.asked[0].template == TEMPLATE
    assert webhook.finder.asked[0].namespace == NAMESPACE
    assert webhook.count(
        "agentcube_snapshot_restore_intent_total",
        mode="Fork",
        result="restore_intent",
        reason="restored_intent",
    )


async def test_a_new_session_gets_what_its_provider_has_to_be_told() -> None:
    told = {"kuasar.io/template-key": "key-1", "kuasar.io/task-id": "5f0c"}
    webhook = Webhook(Decision("key-1", StartReason.RESTORED_INTENT, "python-ready", told))
    stored = await webhook.send(sandbox_body(pod_annotations=dict(FORGED)))
    assert pod_annotations(stored) == {names.SNAPSHOT_KEY: "key-1", **told}


@pytest.mark.parametrize(
    ("meta", "pod_labels", "expected"),
    [
        ({"labels": {names.SESSION_ID: "5f0c"}}, {}, ("session-1", "5f0c")),
        ({}, {names.SESSION_ID: "5f0c"}, ("session-1", "5f0c")),
        ({}, {}, ("session-1", "")),
        ({"name": "", "generateName": "pool-"}, {}, ("", "")),
    ],
    ids=["labelled", "pod-labelled", "named", "not-named-yet"],
)
async def test_a_lookup_learns_whose_session_it_is(
    meta: JsonObject, pod_labels: dict[str, str], expected: tuple[str, str]
) -> None:
    webhook = Webhook()
    body = sandbox_body(**meta)
    body["spec"]["podTemplate"]["metadata"] = {"labels": pod_labels}
    await webhook.send(body)
    assert [(one.name, one.session_id) for one in webhook.finder.asked] == [expected]


async def test_a_forged_intent_has_no_effect_on_either_path() -> None:
    for decision in (RESTORE, cold(StartReason.NO_SNAPSHOT), cold(StartReason.STORE_ERROR)):
        stored = await Webhook(decision).send(sandbox_body(pod_annotations=dict(FORGED)))
        expected = {names.SNAPSHOT_KEY: decision.key} if decision.key else {}
        assert pod_annotations(stored) == expected


async def test_a_cold_start_is_counted_and_told() -> None:
    webhook = Webhook(cold(StartReason.HASH_MISMATCH))
    stored = await webhook.send(sandbox_body())
    assert stored["metadata"]["annotations"][names.COLD_START_REASON] == "hash_mismatch"
    fallbacks = {"reason": "hash_mismatch", "runtime_kind": "CodeInterpreter"}
    assert webhook.count("agentcube_snapstart_fallback_total", **fallbacks) == 1


async def test_a_session_without_a_snapshot_is_no_fallback() -> None:
    webhook = Webhook(cold(StartReason.NO_SNAPSHOT))
    await webhook.send(sandbox_body())
    fallbacks = {"reason": "no_snapshot", "runtime_kind": "CodeInterpreter"}
    assert webhook.count("agentcube_snapstart_fallback_total", **fallbacks) == 0


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
@pytest.mark.parametrize("make", [pool_sandbox, claim_sandbox])
async def test_what_agent_sandbox_makes_gets_its_intent(make: Any, version: str) -> None:
    webhook = Webhook()
    body = make(TEMPLATE_BODY, version)
    stored = await webhook.send(body)
    assert webhook.finder.asked[0].template == TEMPLATE
    assert pod_annotations(stored)[names.SNAPSHOT_KEY] == "key-1"
    del stored["spec"]["podTemplate"]["metadata"]["annotations"][names.SNAPSHOT_KEY]
    body["spec"]["podTemplate"]["metadata"].setdefault("annotations", {})
    assert stored == body


async def test_a_defect_in_the_lookup_starts_the_session_cold() -> None:
    webhook = Webhook(RuntimeError("a defect"))
    stored = await webhook.send(sandbox_body(pod_annotations=dict(FORGED)))
    assert pod_annotations(stored) == {}
    assert webhook.count("agentcube_snapstart_admission_errors_total", reason="defect") == 1


async def test_a_lookup_that_never_ends_starts_the_session_cold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(_: SessionStart) -> Decision:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(mutate, "ANSWER_S", 0.01)
    webhook = Webhook()
    webhook.mutator = SandboxMutator(never, SessionMetrics(CollectorRegistry()), frozenset())
    stored = await webhook.send(sandbox_body(pod_annotations=dict(FORGED)))
    assert pod_annotations(stored) == {}
    assert stored["metadata"]["annotations"][names.COLD_START_REASON] == "store_timeout"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"kind":"AdmissionReview"}', b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "no-utf8", "no-request", "deep"],
)
async def test_what_is_no_review_is_admitted_and_counted(body: bytes) -> None:
    webhook = Webhook()
    answer = await webhook.answer(body)
    assert answer == {"uid": "", "allowed": True}
    assert webhook.count("agentcube_snapstart_admission_errors_total", reason="malformed") == 1


async def test_a_review_of_another_version_is_not_understood() -> None:
    body = json.loads(review(sandbox_body()))
    body["apiVersion"] = "admission.k8s.io/v1beta1"
    webhook = Webhook()
    assert await webhook.answer(json.dumps(body).encode()) == {"uid": "", "allowed": True}
    assert webhook.finder.asked == []


async def test_a_sandbox_that_cannot_be_read_still_loses_a_forged_intent() -> None:
    body = sandbox_body(pod_annotations={**FORGED, "broken": 3})  # type: ignore[dict-item]
    webhook = Webhook()
    assert pod_annotations(await webhook.send(body)) == {"broken": 3}
    assert webhook.finder.asked == []


def build(**parts: Any) -> JsonObject:
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": "SandboxSnapshot",
        "name": "s",
        "uid": "u",
        "controller": True,
    }
    labels = {names.TEMPLATE_SANDBOX: "true", names.WORKLOAD_NAME: TEMPLATE}
    return sandbox_body(labels=labels, ownerReferences=[owner], **parts)


async def test_a_build_is_never_given_an_intent() -> None:
    webhook = Webhook()
    marks = {"kuasar.io/warm-fork-ready-protocol-version": "1"}
    selectors = {names.SNAPSHOT_KEY: "stolen", "kuasar.io/snapshot-type": "warm-fork"}
    body = build(pod_annotations={**marks, **selectors})
    stored = await webhook.send(body, userInfo={"username": CONTROLLER})
    assert pod_annotations(stored) == marks
    assert webhook.finder.asked == []


async def test_a_forged_build_gets_nothing_out_of_it() -> None:
    stored = await Webhook().send(build(pod_annotations=dict(FORGED)))
    assert pod_annotations(stored) == {}


async def test_the_mark_of_a_build_without_its_owner_is_a_session() -> None:
    body = sandbox_body(labels={names.TEMPLATE_SANDBOX: "true", names.WORKLOAD_NAME: TEMPLATE})
    assert pod_annotations(await Webhook().send(body)) == {names.SNAPSHOT_KEY: "key-1"}


def updated(**changes: Any) -> tuple[JsonObject, JsonObject]:
    old = sandbox_body(pod_annotations={names.SNAPSHOT_KEY: "key-0"})
    old["spec"].update(changes.pop("before", {}))
    new = copy.deepcopy(old)
    new["spec"].update(changes)
    return old, new


async def test_an_update_cannot_forge_an_intent() -> None:
    old, new = updated()
    new["spec"]["podTemplate"]["metadata"]["annotations"] = dict(FORGED)
    webhook = Webhook()
    stored = await webhook.send(new, operation="UPDATE", oldObject=old)
    assert pod_annotations(stored) == {names.SNAPSHOT_KEY: "key-0"}
    assert webhook.finder.asked == []


async def test_a_claim_that_takes_a_warm_sandbox_over_changes_no_intent() -> None:
    old = pool_sandbox(TEMPLATE_BODY, "v1beta1")
    new = copy.deepcopy(old)
    new["metadata"]["labels"]["agents.x-k8s.io/claim-uid"] = "c1"
    new["spec"]["podTemplate"]["metadata"]["labels"]["agents.x-k8s.io/claim-uid"] = "c1"
    webhook = Webhook()
    assert await webhook.send(new, operation="UPDATE", oldObject=old) == new
    assert webhook.finder.asked == []


async def test_a_changed_pod_spec_is_decided_anew() -> None:
    old, new = updated()
    new["spec"]["podTemplate"]["spec"]["containers"][0]["image"] = "other"
    stored = await Webhook(cold(StartReason.HASH_MISMATCH)).send(
        new, operation="UPDATE", oldObject=old
    )
    assert pod_annotations(stored) == {}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"replicas": 0}, {"replicas": 1}),
        ({"operatingMode": "Suspended"}, {"operatingMode": "Running"}),
    ],
    ids=["v1alpha1", "v1beta1"],
)
async def test_a_sandbox_that_runs_again_is_decided_anew(
    before: JsonObject, after: JsonObject
) -> None:
    old, new = updated(before=before, **after)
    stored = await Webhook().send(new, operation="UPDATE", oldObject=old)
    assert pod_annotations(stored) == {names.SNAPSHOT_KEY: "key-1"}


@pytest.mark.parametrize(
    "request_",
    [{"operation": "DELETE", "object": None}, {"subResource": "status"}],
    ids=["delete", "status"],
)
async def test_what_starts_no_pod_is_let_pass(request_: dict[str, Any]) -> None:
    webhook = Webhook()
    answer = await webhook.answer(review(sandbox_body(), **request_))
    assert answer == {"uid": "review-1", "allowed": True}
    assert webhook.finder.asked == []
