from __future__ import annotations

import asyncio
import copy
from typing import Any

import msgspec
import pytest

from controlplane.api import names
from controlplane.api.core import PodTemplateMetadata, Sandbox
from controlplane.api.meta import JsonObject
from controlplane.api.types import SandboxSnapshot
from controlplane.sessions.decision import Decision, StartReason
from controlplane.sessions.index import SessionIndex
from controlplane.sessions.lookup import IntentSources, find_restore_intent
from controlplane.sessions.session import session_of
from controlplane.store.breaker import BreakerLimits, BreakerState, BreakerStore
from controlplane.store.store import OwnerKey, Stored
from tests.fakes.agent_sandbox import claim_sandbox, pool_sandbox
from tests.fakes.session_world import (
    NAMESPACE,
    POD_SPEC,
    TEMPLATE,
    make_class,
    make_hash,
    make_index,
    make_manifest,
    make_snapshot,
    make_template,
    owner_key,
    sandbox_body,
)
from tests.fakes.store import FakeStore, StoreFault

TEMPLATE_BODY: JsonObject = {
    "metadata": {"name": TEMPLATE, "namespace": NAMESPACE},
    "spec": {"podTemplate": {"spec": POD_SPEC}},
}


class World:
    """Snapshots that are ready, with their manifests stored."""

    def __init__(self, *snapshots: SandboxSnapshot, budget_s: float = 5.0) -> None:
        self.index = make_index(*snapshots)
        self.store = FakeStore()
        self.budget_s = budget_s
        for snapshot in snapshots:
            manifest = make_manifest(snapshot, key=f"key-{snapshot.metadata.name}")
            self.store.memory.put(owner_key(snapshot), manifest, None)

    async def find(self, body: JsonObject | None = None, store: Any = "own") -> Decision:
        sandbox = msgspec.convert(body or sandbox_body(), Sandbox)
        chosen = self.store if store == "own" else store
        sources = IntentSources(self.index, chosen, budget_s=self.budget_s)
        return await find_restore_intent(sources, session_of(sandbox, NAMESPACE))


async def test_the_newest_ready_snapshot_wins_with_one_read() -> None:
    world = World(make_snapshot("old", age_s=90), make_snapshot("new", age_s=10))
    assert await world.find() == Decision("key-new", StartReason.RESTORED_INTENT, "new")
    assert world.store.memory.reads == 1


def make_kuasar_world(**build: str) -> World:
    """The same with a class of Kuasar's."""
    world = World(make_snapshot())
    spec = make_class().spec
    spec = msgspec.structs.replace(
        spec, build_pod_annotations={names.KUASAR_READY_VERSION: "1", **build}
    )
    kuasar = msgspec.structs.replace(make_class(), spec=spec)
    world.index.put_class(kuasar)
    manifest = make_manifest(make_snapshot(), digest=make_hash(snapshot_class=kuasar))
    world.store.memory.texts.clear()
    world.store.memory.put(owner_key(make_snapshot()), manifest, None)
    return world


async def test_a_session_of_kuasar_is_told_what_its_sandboxer_restores_by() -> None:
    decision = await make_kuasar_world().find()
    assert decision.key == "key-1"
    assert decision.annotations.keys() == {
        names.SNAPSHOT_KEY,
        "kuasar.io/template-key",
        "kuasar.io/task-id",
        "kuasar.io/task-context",
    }
    assert decision.annotations["kuasar.io/template-key"] == "key-1"
    assert decision.annotations["kuasar.io/task-id"] == "session-1"


async def test_a_session_of_kuasar_whose_class_has_changed_starts_cold_without_a_word() -> None:
    world = make_kuasar_world()
    changed = make_kuasar_world(**{"kuasar.io/warm-fork-containers": "code"})
    world.index = changed.index
    decision = await world.find()
    assert decision.reason is StartReason.HASH_MISMATCH
    assert decision.annotations == {}


async def test_a_session_of_another_provider_is_told_the_key_alone() -> None:
    decision = await World(make_snapshot()).find()
    assert decision.annotations == {names.SNAPSHOT_KEY: "key-python-ready"}


async def test_a_template_with_an_annotation_much_like_a_selector_restores() -> None:
    world = World(make_snapshot())
    annotations = {"kuasar.io/template-keyring": "mine"}
    template = make_template()
    pod = msgspec.structs.replace(
        template.spec.pod_template, metadata=PodTemplateMetadata(annotations=annotations)
    )
    template = msgspec.structs.replace(
        template, spec=msgspec.structs.replace(template.spec, pod_template=pod)
    )
    world.index.put_template(template)
    manifest = make_manifest(make_snapshot(), digest=make_hash(template))
    world.store.memory.texts.clear()
    world.store.memory.put(owner_key(make_snapshot()), manifest, None)
    assert (await world.find(sandbox_body(pod_annotations=annotations))).key == "key-1"


async def test_no_snapshot_reads_no_store() -> None:
    world = World()
    assert (await world.find()).reason is StartReason.NO_SNAPSHOT
    assert world.store.memory.reads == 0


async def test_a_snapshot_in_the_making_is_not_ready() -> None:
    assert (await World(make_snapshot(phase="Creating")).find()).reason is StartReason.NOT_READY


async def test_a_terminating_snapshot_serves_nobody() -> None:
    assert (await World(make_snapshot(terminating=True)).find()).reason is StartReason.NOT_READY


async def test_without_a_store_snapshots_are_off() -> None:
    for phase in ("Ready", "Pending"):
        decision = await World(make_snapshot(phase=phase)).find(store=None)
        assert decision.reason is StartReason.STORE_DISABLED
    assert (await World().find(store=None)).reason is StartReason.NO_SNAPSHOT


async def test_a_session_that_runs_something_else_starts_cold() -> None:
    spec = copy.deepcopy(POD_SPEC)
    spec["containers"][0]["image"] = "registry.example/other:1"
    decision = await World(make_snapshot()).find(sandbox_body(spec=spec))
    assert decision.reason is StartReason.HASH_MISMATCH


async def test_a_pod_spec_that_kubernetes_cannot_hold_starts_cold() -> None:
    spec = {**copy.deepcopy(POD_SPEC), "terminationGracePeriodSeconds": 1.5}
    decision = await World(make_snapshot()).find(sandbox_body(spec=spec))
    assert decision.reason is StartReason.HASH_MISMATCH


async def test_a_template_that_is_gone_starts_cold() -> None:
    world = World(make_snapshot())
    world.index.drop_template(NAMESPACE, TEMPLATE)
    assert (await world.find()).reason is StartReason.HASH_MISMATCH


async def test_a_class_that_is_gone_starts_cold() -> None:
    world = World(make_snapshot())
    world.index.drop_class("qemu")
    assert (await world.find()).reason is StartReason.HASH_MISMATCH


async def test_a_forged_annotation_changes_neither_hash_nor_key() -> None:
    forged = {names.SNAPSHOT_KEY: "stolen", "kuasar.io/task-id": "x"}
    decision = await World(make_snapshot()).find(sandbox_body(pod_annotations=forged))
    assert decision.key == "key-python-ready"


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
@pytest.mark.parametrize("make", [pool_sandbox, claim_sandbox])
async def test_what_agent_sandbox_makes_of_a_template_restores(make: Any, version: str) -> None:
    decision = await World(make_snapshot()).find(make(TEMPLATE_BODY, version))
    assert decision.key == "key-python-ready"


@pytest.mark.parametrize(
    "labels",
    [{names.WORKLOAD_NAME: TEMPLATE}, {names.SANDBOX_TEMPLATE_REF: TEMPLATE}],
    ids=["workload", "reference"],
)
async def test_the_template_is_found_by_label(labels: dict[str, str]) -> None:
    decision = await World(make_snapshot()).find(sandbox_body(labels=labels))
    assert decision.key == "key-python-ready"


async def test_the_reference_beats_the_workload_name() -> None:
    body = sandbox_body(
        labels={names.WORKLOAD_NAME: "other"}, annotations={names.SANDBOX_TEMPLATE_REF: TEMPLATE}
    )
    assert (await World(make_snapshot()).find(body)).key == "key-python-ready"


async def test_a_sandbox_without_a_template_is_nobodys() -> None:
    decision = await World(make_snapshot()).find(sandbox_body(labels={}))
    assert decision.reason is StartReason.NO_SNAPSHOT


async def test_a_corrupt_manifest_gives_way_to_the_next_snapshot() -> None:
    world = World(make_snapshot("old", age_s=90), make_snapshot("new", age_s=10))
    world.store.memory.texts[str(owner_key(make_snapshot("new")))] = b"{"
    assert (await world.find()).key == "key-old"


async def test_a_manifest_of_another_owner_gives_way_to_the_next_snapshot() -> None:
    world = World(make_snapshot("old", age_s=90), make_snapshot("new", age_s=10))
    world.index.put_snapshot(make_snapshot("new", age_s=10, uid="made-again"))
    stale = world.store.memory.texts[str(owner_key(make_snapshot("new")))]
    again = owner_key(make_snapshot("new", uid="made-again"))
    world.store.memory.texts[str(again)] = stale
    assert (await world.find()).key == "key-old"


async def test_when_none_fits_the_newest_says_why() -> None:
    world = World(make_snapshot("old", age_s=90), make_snapshot("new", age_s=10))
    world.store.memory.texts[str(owner_key(make_snapshot("new")))] = b"{"
    del world.store.memory.texts[str(owner_key(make_snapshot("old")))]
    decision = await world.find()
    assert decision == Decision(None, StartReason.MANIFEST_CORRUPT, "new")


async def test_a_store_that_is_down_is_an_error_not_an_empty_answer() -> None:
    world = World(make_snapshot())
    world.store.memory.set_down(True)
    assert (await world.find()).reason is StartReason.STORE_ERROR


async def test_a_lost_reply_gives_way_to_the_next_snapshot() -> None:
    world = World(make_snapshot("old", age_s=90), make_snapshot("new", age_s=10))
    world.store.memory.fail_next("get", StoreFault.LOST_REPLY)
    assert (await world.find()).key == "key-old"


class SilentStore(FakeStore):
    """Takes the question, never answers."""

    async def get(self, key: OwnerKey) -> Stored | None:
        await asyncio.Event().wait()
        return None


async def test_a_store_that_says_nothing_costs_the_budget() -> None:
    world = World(make_snapshot(), budget_s=0.01)
    assert (await world.find(store=SilentStore())).reason is StartReason.STORE_TIMEOUT


async def test_a_silent_store_is_asked_once_then_left_alone() -> None:
    clock = [0.0]
    limits = BreakerLimits(budget_s=0.01, failures=2, open_s=10.0)
    guarded = BreakerStore(SilentStore(), lambda: clock[0], limits)
    world = World(make_snapshot("old", age_s=90), make_snapshot("new", age_s=10))
    reasons = [(await world.find(store=guarded)).reason for _ in range(3)]
    assert reasons == [
        StartReason.STORE_TIMEOUT,
        StartReason.STORE_TIMEOUT,
        StartReason.STORE_ERROR,
    ]
    assert guarded.state is BreakerState.OPEN


async def test_the_breaker_lets_sessions_restore_again() -> None:
    clock = [0.0]
    world = World(make_snapshot())
    guarded = BreakerStore(world.store, lambda: clock[0], BreakerLimits(failures=1, open_s=10.0))
    world.store.memory.set_down(True)
    assert (await world.find(store=guarded)).reason is StartReason.STORE_ERROR
    world.store.memory.set_down(False)
    assert (await world.find(store=guarded)).reason is StartReason.STORE_ERROR
    clock[0] = 10.0
    assert (await world.find(store=guarded)).key == "key-python-ready"


async def test_at_most_a_few_snapshots_are_tried() -> None:
    world = World(*(make_snapshot(f"s{n}", age_s=n) for n in range(20)))
    world.store.memory.texts.clear()
    assert (await world.find()).reason is StartReason.NO_ACTIVE_SET
    assert world.store.memory.reads == 4


async def test_sessions_that_start_together_all_restore() -> None:
    world = World(make_snapshot())
    decisions = await asyncio.gather(*(world.find() for _ in range(50)))
    assert {decision.key for decision in decisions} == {"key-python-ready"}


async def test_a_lookup_survives_a_change_of_the_index_meanwhile() -> None:
    world = World(make_snapshot("old", age_s=90), make_snapshot("new", age_s=10))
    release = asyncio.Event()

    class Gated(FakeStore):
        async def get(self, key: OwnerKey) -> Stored | None:
            await release.wait()
            return world.store.memory.get(key)

    waiting = asyncio.create_task(world.find(store=Gated()))
    await asyncio.sleep(0)
    world.index.drop_snapshot(NAMESPACE, "new")
    world.index.drop_snapshot(NAMESPACE, "old")
    release.set()
    assert (await waiting).key == "key-new"


async def test_a_cancelled_lookup_ends() -> None:
    world = World(make_snapshot())
    waiting = asyncio.create_task(world.find(store=SilentStore()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_an_index_knows_nothing_at_first() -> None:
    assert SessionIndex().template(NAMESPACE, TEMPLATE) is None
