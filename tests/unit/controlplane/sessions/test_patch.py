from __future__ import annotations

import copy
from typing import Any

import pytest

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.sessions.decision import Decision, StartReason, cold
from controlplane.sessions.patch import (
    plan_build_patch,
    plan_keep_patch,
    plan_session_patch,
    pointer,
)
from controlplane.sessions.review import PatchStep
from tests.fakes.json_patch import apply_patch
from tests.fakes.session_world import sandbox_body

RESTORE = Decision("key-1", StartReason.RESTORED_INTENT)
FORGED = {
    names.SNAPSHOT_KEY: "stolen",
    "kuasar.io/snapshot-type": "warm-fork",
    "kuasar.io/template-key": "stolen",
    "kuasar.io/template-id": "0123456789abcdef",
    "kuasar.io/pod-uid": "somebody-elses",
    "kuasar.io/workload-generation": "1",
    "kuasar.io/task-env/HOME": "/root",
    "kuasar.io/container/code/task-context": "{}",
    "kuasar.io/warm-fork-containers": "code",
    "example.org/kept": "yes",
}
KUASAR = Decision(
    "key-1",
    StartReason.RESTORED_INTENT,
    "python-ready",
    {"kuasar.io/template-key": "key-1", "kuasar.io/task-id": "5f0c"},
)


def patched(body: JsonObject, steps: tuple[PatchStep, ...]) -> Any:
    return apply_patch(copy.deepcopy(body), steps)


def pod_annotations(body: Any) -> dict[str, str]:
    return (body["spec"]["podTemplate"].get("metadata") or {}).get("annotations") or {}


def test_a_restore_puts_the_key_where_nothing_was() -> None:
    body = sandbox_body()
    after = patched(body, plan_session_patch(body, RESTORE))
    assert pod_annotations(after) == {names.SNAPSHOT_KEY: "key-1"}
    assert "annotations" not in after["metadata"]


@pytest.mark.parametrize(
    "metadata", [None, {}, {"annotations": None}, {"annotations": {}}, {"labels": {"a": "b"}}]
)
def test_a_restore_grows_what_is_missing(metadata: JsonObject | None) -> None:
    body = sandbox_body()
    body["spec"]["podTemplate"]["metadata"] = metadata
    after = patched(body, plan_session_patch(body, RESTORE))
    assert pod_annotations(after) == {names.SNAPSHOT_KEY: "key-1"}
    assert (after["spec"]["podTemplate"]["metadata"].get("labels")) == (metadata or {}).get(
        "labels"
    )


def test_a_forged_intent_is_replaced_on_the_restore_path() -> None:
    body = sandbox_body(pod_annotations=dict(FORGED))
    after = patched(body, plan_session_patch(body, RESTORE))
    assert pod_annotations(after) == {names.SNAPSHOT_KEY: "key-1", "example.org/kept": "yes"}


def test_what_a_provider_has_to_be_told_replaces_what_was_forged() -> None:
    body = sandbox_body(pod_annotations=dict(FORGED))
    after = patched(body, plan_session_patch(body, KUASAR))
    assert pod_annotations(after) == {
        names.SNAPSHOT_KEY: "key-1",
        "kuasar.io/template-key": "key-1",
        "kuasar.io/task-id": "5f0c",
        "example.org/kept": "yes",
    }
    assert plan_session_patch(after, KUASAR) == ()


def test_what_a_provider_was_told_goes_when_the_session_starts_cold_after_all() -> None:
    body = sandbox_body(pod_annotations=dict(KUASAR.annotations))
    after = patched(body, plan_session_patch(body, cold(StartReason.NOT_READY)))
    assert pod_annotations(after) == {}


def test_a_name_that_only_begins_like_one_stays() -> None:
    kept = {"kuasar.io/template-keyring": "mine"}
    body = sandbox_body(pod_annotations=dict(kept))
    assert plan_session_patch(body, cold(StartReason.NO_SNAPSHOT)) == ()


@pytest.mark.parametrize("reason", [r for r in StartReason if r is not StartReason.RESTORED_INTENT])
def test_a_forged_intent_is_removed_on_every_cold_path(reason: StartReason) -> None:
    body = sandbox_body(pod_annotations=dict(FORGED))
    after = patched(body, plan_session_patch(body, cold(reason)))
    assert pod_annotations(after) == {"example.org/kept": "yes"}


def test_a_cold_start_with_a_snapshot_says_why() -> None:
    body = sandbox_body()
    after = patched(body, plan_session_patch(body, cold(StartReason.HASH_MISMATCH)))
    assert after["metadata"]["annotations"] == {names.COLD_START_REASON: "hash_mismatch"}


def test_a_sandbox_that_no_snapshot_is_meant_for_stays_as_it_is() -> None:
    assert plan_session_patch(sandbox_body(), cold(StartReason.NO_SNAPSHOT)) == ()


def test_a_reason_that_somebody_else_wrote_goes() -> None:
    for decision in (RESTORE, cold(StartReason.NO_SNAPSHOT)):
        body = sandbox_body(annotations={names.COLD_START_REASON: "me", "a": "b"})
        after = patched(body, plan_session_patch(body, decision))
        assert after["metadata"]["annotations"] == {"a": "b"}


def test_an_intent_that_is_right_already_needs_no_patch() -> None:
    body = sandbox_body(pod_annotations={names.SNAPSHOT_KEY: "key-1"})
    assert plan_session_patch(body, RESTORE) == ()


def test_a_build_loses_a_key_and_keeps_its_marks_if_the_controller_made_it() -> None:
    body = sandbox_body(pod_annotations=dict(FORGED))
    trusted = pod_annotations(patched(body, plan_build_patch(body, is_trusted=True)))
    assert trusted.keys() == {
        "kuasar.io/task-env/HOME",
        "kuasar.io/container/code/task-context",
        "kuasar.io/warm-fork-containers",
        "example.org/kept",
    }
    forged = pod_annotations(patched(body, plan_build_patch(body, is_trusted=False)))
    assert forged == {"example.org/kept": "yes"}


def test_an_update_keeps_what_the_object_said_before() -> None:
    old = sandbox_body(pod_annotations={names.SNAPSHOT_KEY: "key-1", "a": "b"})
    new = sandbox_body(pod_annotations={**FORGED, "a": "c"})
    after = patched(new, plan_keep_patch(new, old))
    assert pod_annotations(after) == {
        names.SNAPSHOT_KEY: "key-1",
        "example.org/kept": "yes",
        "a": "c",
    }


@pytest.mark.parametrize("decision", [RESTORE, KUASAR], ids=["key", "kuasar"])
def test_an_update_cannot_take_the_intent_away(decision: Decision) -> None:
    old = sandbox_body(pod_annotations=dict(decision.annotations))
    new = sandbox_body()
    assert pod_annotations(patched(new, plan_keep_patch(new, old))) == decision.annotations


def test_pointers_escape_tildes_before_slashes() -> None:
    assert pointer(("a", "b/c", "d~1e")) == "/a/b~1c/d~01e"


@pytest.mark.parametrize(
    "body",
    [{}, {"spec": []}, {"spec": {"podTemplate": 3}}, {"metadata": "x", "spec": None}],
    ids=["empty", "list", "number", "texts"],
)
def test_nonsense_is_patched_without_a_fault(body: JsonObject) -> None:
    plan_session_patch(body, RESTORE)
    plan_session_patch(body, cold(StartReason.HASH_MISMATCH))
    plan_keep_patch(body, body)
