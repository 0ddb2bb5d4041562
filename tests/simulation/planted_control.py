"""Put defects into the snapshot controller's decisions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

import msgspec

from agentd.node import task_plan, task_target
from controlplane.api import names
from controlplane.api.manifest import Artifact, ArtifactSet, Manifest, SetReference
from controlplane.api.types import ArtifactPhase, SnapshotPhase, TaskOperation
from controlplane.errors import ControlPlaneError
from controlplane.snapshots import (
    artifacts,
    content,
    coverage,
    deletion,
    dispatch,
    health,
    keys,
    messages,
    nodes,
    normalise,
    orders,
    plan,
    sets,
    source,
    status,
    tolerations,
)
from controlplane.snapshots.draft import Draft
from controlplane.snapshots.executor import Executor
from controlplane.snapshots.observed import Observed
from controlplane.snapshots.orders import Orders
from controlplane.snapshots.steps import (
    ConfirmSnapshot,
    CreateBuildSandbox,
    CreateTask,
    Plan,
    PutManifest,
    Step,
)

Patches = list[tuple[Any, str, Any]]  # owner, name, replacement


def _wrapped_plan(change: Callable[[Observed, Plan], Plan]) -> Patches:
    real = plan.plan_snapshot

    def plan_snapshot(seen: Observed, now: datetime) -> Plan:
        return change(seen, real(seen, now))

    return [(plan, "plan_snapshot", plan_snapshot)]


def nothing_is_retired() -> Patches:
    return [(sets, "_retired_set", lambda *_: ())]


def pending_is_looked_up_unguarded() -> Patches:
    def named(self: Manifest, reference: SetReference | None) -> ArtifactSet | None:
        if reference is None or not reference.snapshot_key:
            return None
        return (self.artifact_sets or {})[reference.snapshot_key]

    return [(Manifest, "_named", named)]


def tolerations_keep_their_order() -> Patches:
    return [(normalise, "_order", lambda _: 0)]


def ready_at_does_not_count() -> Patches:
    real = plan._write_status

    def write_status(seen: Observed, made: Any) -> list[Step]:
        known = seen.snapshot.status
        same = known is not None and (
            msgspec.structs.replace(known, ready_at=None, conditions=())
            == msgspec.structs.replace(made, ready_at=None, conditions=())
        )
        return [] if same else real(seen, made)

    return [(plan, "_write_status", write_status)]


def nothing_wakes() -> Patches:
    return _wrapped_plan(
        lambda _, made: (
            made if any(isinstance(s, PutManifest) for s in made.steps) else Plan(made.steps, None)
        )
    )


def build_name_lacks_the_key() -> Patches:
    def name(snapshot_name: str, _: str, node_name: str, __: int) -> str:
        return keys.build_sandbox_name(snapshot_name, "", node_name, 0)

    return [
        (orders, "build_sandbox_name", name),
        (Orders, "_is_build_of", lambda *_: True),
        (task_target, "_why_no_build", lambda *_: ""),
    ]


def names_collide() -> Patches:
    def named(verb: str, readable: str, *identity: str) -> str:
        return keys.normalise_name("-".join((verb, *identity[-3:])))

    return [
        (orders, "task_name", _uncached(keys.task_name, named)),
        (orders, "build_sandbox_name", _uncached(keys.build_sandbox_name, named)),
        (Orders, "_is_of", lambda *_: True),
        (Orders, "_is_build_of", lambda *_: True),
    ]


def _uncached(function: Callable[..., str], named: Callable[..., str]) -> Callable[..., str]:
    def call(*args: Any) -> str:
        with mock.patch.object(keys, "_named", named):
            return function(*args)

    return call


def keys_repeat() -> Patches:
    def key(_: str, name: str, __: str, mode: Any, generation: int, seq: int) -> str:
        return f"{name}-{mode.value.lower()}-g{generation}-r{seq}"

    return [(sets, "snapshot_key", key)]


def made_before_recorded() -> Patches:
    def change(_: Observed, made: Plan) -> Plan:
        first = [s for s in made.steps if isinstance(s, CreateBuildSandbox | CreateTask)]
        rest = [s for s in made.steps if not isinstance(s, CreateBuildSandbox | CreateTask)]
        return Plan((*first, *rest), made.requeue_at)

    return _wrapped_plan(change)


def failed_counts_as_covered() -> Patches:
    return [(artifacts, "_judge_retry", lambda found, *_: found)]


def no_budget() -> Patches:
    real = artifacts._fail

    def fail(found: Artifact, why: str, policy: Any, now: datetime) -> Artifact:
        made = real(found, why, policy, now)
        assert made.retry is not None
        retry = msgspec.structs.replace(
            made.retry, failure_count=1, next_retry_at=now + timedelta(seconds=1)
        )
        return msgspec.structs.replace(made, retry=retry)

    return [(artifacts, "_fail", fail)]


def no_deadline() -> Patches:
    def deadline(_: Artifact, __: Any, now: datetime) -> datetime:
        return now + timedelta(days=365)

    return [
        (artifacts, "build_deadline", deadline),
        (coverage, "build_deadline", deadline),
        (task_plan, "_within_time", lambda decision, *_: decision),
    ]


def never_failed() -> Patches:
    real = status._judge

    def judge(*args: Any) -> status.Verdict:
        made = real(*args)
        if made.phase is not SnapshotPhase.FAILED:
            return made
        return replace(made, phase=SnapshotPhase.CREATING)

    return [(status, "_judge", judge)]


def no_node_is_pending() -> Patches:
    real = status._judge

    def judge(*args: Any) -> status.Verdict:
        made = real(*args)
        if made.reason != "NoTargetNodes":
            return made
        return status.Verdict(SnapshotPhase.PENDING, made.reason, "")

    return [(status, "_judge", judge)]


def lost_nodes_stay_ready() -> Patches:
    real = artifacts.advance_artifact

    def advance(found: Artifact, site: Any, *args: Any) -> Artifact | None:
        is_lost = site.node is None or site.health.outage
        if found.phase is ArtifactPhase.READY and is_lost:
            return found
        return real(found, site, *args)

    return [(coverage, "advance_artifact", advance)]


def rejoined_is_the_same() -> Patches:
    return [(artifacts, "_rejoin", lambda found, *_: found)]


def stale_pending_goes_on() -> Patches:
    real = sets.clear_stale

    def clear(draft: Draft, found: Any) -> None:
        kept = draft.manifest.pending_set_ref
        draft.manifest = msgspec.structs.replace(draft.manifest, pending_set_ref=None)
        real(draft, found)
        draft.manifest = msgspec.structs.replace(draft.manifest, pending_set_ref=kept)

    return [(plan, "clear_stale", clear)]


def failed_pending_stays() -> Patches:
    return [(plan, "give_up", lambda _: None)]


def only_pending_is_advanced() -> Patches:
    def serving(draft: Draft) -> tuple[ArtifactSet, ...]:
        found = draft.manifest.pending or draft.manifest.active
        return () if found is None else (found,)

    real = coverage.advance_sets

    def advance(draft: Draft, *args: Any) -> None:
        with mock.patch.object(Draft, "serving_sets", property(serving)):
            real(draft, *args)

    return [(plan, "advance_sets", advance)]


def first_ready_takes_over() -> Patches:
    return [(sets, "_may_take_over", lambda _, __, pending: sets.ready_count(pending) > 0)]


def any_task_counts() -> Patches:
    def task(self: Orders, found: Artifact, operation: TaskOperation) -> Any:
        return next(
            (
                one
                for one in self._tasks.values()
                if one.spec.target_node_name == found.node_name and one.spec.operation is operation
            ),
            None,
        )

    return [(Orders, "task", task)]


def no_owner() -> Patches:
    return [
        (sets, "owner_of", lambda _: None),
        (sets, "repair", lambda _: None),
        (plan, "first_manifest", lambda *_: Manifest()),
        (deletion, "first_manifest", lambda *_: Manifest()),
    ]


def late_put_resurrects() -> Patches:
    def change(seen: Observed, made: Plan) -> Plan:
        steps = tuple(s for s in made.steps if not isinstance(s, ConfirmSnapshot))
        return Plan(steps, made.requeue_at)

    return _wrapped_plan(change)


def builds_without_task_are_missed() -> Patches:
    real = Orders.left_over

    def left_over(self: Orders) -> Any:
        found, sandboxes = real(self)
        ids = {task.metadata.label(names.SNAPSHOT_KEY_ID) for task in found}
        kept = [one for one in sandboxes if one.metadata.label(names.SNAPSHOT_KEY_ID) in ids]
        return found, kept

    return [(Orders, "left_over", left_over)]


def errors_are_swallowed() -> Patches:
    async def perform(self: Executor, made: Plan, snapshot: Any) -> Any:
        refused: dict[str, str] = {}
        for step in made.steps:
            with suppress(ControlPlaneError):
                await self._perform(step, snapshot)
        return refused

    return [(Executor, "perform", perform)]


def selectors_override() -> Patches:
    return [(nodes, "_contradiction", lambda *_: "")]


def wishes_are_hard() -> Patches:
    return [(tolerations, "HARD_EFFECTS", ("NoSchedule", "NoExecute", "PreferNoSchedule"))]


def runtime_class_is_ignored() -> Patches:
    return [(nodes, "_missing_runtime_class", lambda *_: "")]


def gate_twice() -> Patches:
    def gated(container: dict[str, Any]) -> dict[str, Any]:
        gate = {"name": names.SESSION_GATE_ENV, "value": "true"}
        return {**container, "env": [*(container.get("env") or ()), gate]}

    return [(content, "_gated", gated)]


def token_is_kept() -> Patches:
    real = content.build_pod_spec

    def build(*args: Any) -> Any:
        return {**real(*args), "automountServiceAccountToken": True}

    return [(content, "build_pod_spec", build)]


def user_annotations_pass() -> Patches:
    real = content._pod_metadata

    def metadata(snapshot: Any, found: Any, made_from: Any, policy: Any) -> Any:
        made = real(snapshot, found, made_from, policy)
        theirs = made_from.template.spec.pod_template.metadata.annotations or {}
        return msgspec.structs.replace(made, annotations={**theirs, **(made.annotations or {})})

    return [(content, "_pod_metadata", metadata)]


def old_set_outlives_its_template() -> Patches:
    real = source._no_template

    def no_template(seen: Observed) -> Any:
        return replace(real(seen), is_source_gone=False)

    return [(source, "_no_template", no_template)]


def messages_are_unbounded() -> Patches:
    return [
        (messages, "cap_bytes", lambda text, _: text),
        (status, "cap_bytes", lambda text, _: text),
    ]


def finished_tasks_stay() -> Patches:
    return [(dispatch, "_end_task", lambda *_: None)]


def cordoned_is_built_on() -> Patches:
    real = nodes.classify_node

    def classify(demand: Any, node: Any) -> Any:
        found = real(demand, node)
        return None if found is nodes.Refusal.CORDONED else found

    return [(nodes, "classify_node", classify), (health, "classify_node", classify)]
