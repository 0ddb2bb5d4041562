"""Each transition of a SandboxSnapshot's phase, with its events."""

from __future__ import annotations

import pytest

from controlplane.api import names
from controlplane.api.types import ArtifactPhase, SnapshotPhase
from controlplane.kube.resource import RUNTIME_CLASSES, SNAPSHOT_CLASSES, SNAPSHOTS
from controlplane.snapshots.steps import AddFinalizer, Plan, WriteStatus
from tests.fakes.snapshot_world import (
    NAME,
    NAMESPACE,
    PROVIDER,
    World,
    make_ready_world,
    make_world,
)

CREATING, READY, FAILED = SnapshotPhase.CREATING, SnapshotPhase.READY, SnapshotPhase.FAILED


def test_the_finalizer_comes_before_all_else() -> None:
    world = make_world("node-a")
    assert world.plan() == Plan((AddFinalizer(),))


def test_the_first_build_goes_from_nothing_over_creating_to_ready() -> None:
    world = make_world("node-a", "node-b")
    world.agents.idle = {"node-a", "node-b"}
    world.settle()
    assert (world.phase, world.counts_of_nodes) == (CREATING, (2, 0, 0, 0))
    assert world.reasons() == ["SandboxSnapshotCreating"]
    world.agents.idle = {"node-b"}
    world.settle()
    assert (world.phase, world.counts_of_nodes) == (READY, (1, 1, 0, 0))
    assert world.status.ready_at == world.now
    world.agents.idle = set()
    world.settle()
    assert (world.phase, world.counts_of_nodes) == (READY, (0, 2, 0, 0))
    assert world.reasons() == ["SandboxSnapshotCreating", "SandboxSnapshotReady"]


def test_no_node_is_a_failure_that_the_next_node_ends() -> None:
    """Defect 34: leaves Pending, says so, recovers."""
    world = make_world()
    world.settle()
    assert world.phase is FAILED
    assert world.reasons() == ["SandboxSnapshotFailed", "NoTargetNodes"]
    assert "no node can be used" in world.status.message
    world.add_node("node-a")
    world.settle()
    assert world.phase is READY
    assert world.reasons()[2:] == ["SandboxSnapshotCreating", "SandboxSnapshotReady"]


def test_all_builds_failed_for_good_is_a_failure() -> None:
    """Defect 33."""
    world = make_world("node-a")
    world.agents.failures["node-a"] = ["one", "two", "three"]
    world.settle()
    assert world.phase is CREATING  # budget is left
    assert "ArtifactBuildError" in world.reasons()
    world.run_for(60)
    assert (world.phase, world.counts_of_nodes) == (FAILED, (0, 0, 1, 0))
    assert world.status.message == "node-a: three"
    assert world.reasons()[-1] == "SandboxSnapshotFailed"


def test_a_failed_snapshot_is_tried_again_after_half_an_hour() -> None:
    """Defect 31."""
    world = make_world("node-a")
    world.agents.failures["node-a"] = ["one", "two", "three"]
    world.run_for(60)
    assert world.phase is FAILED
    world.run_for(1700)
    assert world.phase is FAILED
    world.run_for(200)
    assert world.phase is READY


@pytest.mark.parametrize(
    "trigger",
    [
        lambda world: world.add_node("node-b"),
        lambda world: world.edit_template("registry.example/picod:2"),
        lambda world: world.force(),
    ],
    ids=["new-node", "source-change", "force"],
)
def test_a_failed_snapshot_is_tried_again_on_a_trigger(trigger: object) -> None:
    world = make_world("node-a")
    world.agents.failures["node-a"] = ["one", "two", "three"]
    world.run_for(60)
    assert world.phase is FAILED
    world.events.clear()
    trigger(world)  # type: ignore[operator]
    world.agents.idle = {"node-a", "node-b"}
    world.settle()
    assert world.phase is CREATING
    assert world.reasons() == ["SandboxSnapshotCreating"]
    world.agents.idle = set()
    world.settle()
    assert world.phase is READY


def test_force_that_fails_is_not_tried_without_end() -> None:
    world = make_world("node-a")
    world.agents.failures["node-a"] = [str(n) for n in range(100)]
    world.force()
    world.run_for(120)
    assert world.phase is FAILED
    assert len(world.agents.failures["node-a"]) == 97
    assert world.snapshot.metadata.annotation(names.FORCE_REBUILD) == "true"


def test_a_changed_source_is_rebuilt_with_sessions_cold_meanwhile() -> None:
    world = make_ready_world("node-a")
    old = world.active.snapshot_key
    world.agents.idle = {"node-a"}
    world.edit_template("registry.example/picod:2")
    world.settle()
    assert (world.phase, world.status.ready_at) == (CREATING, None)
    assert world.manifest.active is None
    assert world.reasons() == ["SandboxSnapshotRebuilding"]
    world.agents.idle = set()
    world.settle()
    assert world.phase is READY
    assert world.active.snapshot_key != old
    assert world.status.ready_at == world.now


def test_no_usable_artifact_left_ends_ready() -> None:
    world = make_ready_world("node-a")
    world.add_node("node-b")
    world.agents.idle = {"node-b"}
    world.settle()
    assert world.phase is READY
    world.set_ready("node-a", False)
    world.advance(61)
    assert (world.phase, world.counts_of_nodes) == (CREATING, (1, 0, 0, 1))
    world.agents.idle = set()
    world.settle()
    assert (world.phase, world.counts_of_nodes) == (READY, (0, 1, 0, 1))


def test_a_missing_class_is_a_failure_that_keeps_what_was_built() -> None:
    world = make_ready_world("node-a")
    key = world.active.snapshot_key
    world.cluster.delete(SNAPSHOT_CLASSES, "qemu")
    world.settle()
    assert (world.phase, world.status.target_node_count) == (FAILED, 0)
    assert world.reasons() == ["SandboxSnapshotFailed", "SnapshotClassNotFound"]
    world.run_for(3000)
    assert len(world.events) == 2
    world.add_class()
    world.settle()
    assert world.phase is READY
    assert world.active.snapshot_key == key


def test_a_missing_template_takes_the_set_out_of_service() -> None:
    """Defect 50."""
    world = make_ready_world("node-a")
    world.delete_template()
    world.settle()
    assert world.phase is FAILED
    assert world.manifest.active is None
    assert world.reasons() == ["SandboxSnapshotFailed", "SourceTemplateNotFound"]
    world.add_template()
    world.settle()
    assert world.phase is READY
    world.run_for(2000)
    assert {key for _, key in world.agents.artifacts} == {world.active.snapshot_key}


def test_a_template_is_looked_for_every_minute_and_a_class_every_half() -> None:
    world = make_ready_world("node-a")
    world.delete_template()
    assert (world.settle().requeue_at or world.now) > world.now
    world.cluster.delete(SNAPSHOT_CLASSES, "qemu")
    plan = world.settle()
    assert plan.requeue_at is not None
    assert (plan.requeue_at - world.now).total_seconds() <= 30


def _resume(world: World) -> None:
    body = world.cluster.get(SNAPSHOTS, NAME, NAMESPACE)
    body["spec"]["snapshotMode"] = "Resume"
    world.cluster.replace(SNAPSHOTS, body)


def _mode_dropped(world: World) -> None:
    patch = {"spec": {"supportedSnapshotModes": ["Resume"]}}
    world.cluster.merge(SNAPSHOT_CLASSES, "qemu", patch)


def _wrong_kind(world: World) -> None:
    world.patch_snapshot({"spec": {"sourceRef": {"kind": "Sandbox"}}})


def _wrong_group(world: World) -> None:
    world.patch_snapshot({"spec": {"sourceRef": {"apiGroup": "apps"}}})


def _wrong_duration(world: World) -> None:
    world.patch_snapshot({"spec": {"forkPolicy": {"rebuildAfter": "5s"}}})


def _no_duration(world: World) -> None:
    world.patch_snapshot({"spec": {"forkPolicy": {"rebuildAfter": "soon"}}})


@pytest.mark.parametrize(
    ("spoil", "reason", "said"),
    [
        (_resume, "UnsupportedSnapshotMode", "not implemented yet"),
        (_mode_dropped, "SnapshotModeNotSupported", "not Fork"),
        (_wrong_kind, "InvalidSpec", "'Sandbox'"),
        (_wrong_group, "InvalidSpec", "'apps'"),
        (_wrong_duration, "InvalidSpec", "rebuildAfter"),
        (_no_duration, "InvalidSpec", "soon"),
    ],
    ids=["resume", "mode-dropped", "kind", "group", "duration-short", "duration-text"],
)
def test_what_a_webhook_would_refuse_is_refused_again(
    spoil: object, reason: str, said: str
) -> None:
    """Defect 19: also where the webhook is off."""
    world = make_world("node-a")
    spoil(world)  # type: ignore[operator]
    world.settle()
    assert world.phase is FAILED
    assert said in world.status.message
    assert world.reasons() == ["SandboxSnapshotFailed", reason]
    assert not world.tasks
    assert not world.store.texts


def test_a_template_with_volume_claims_is_refused() -> None:
    """Defect 48."""
    world = World()
    world.add_node("node-a")
    world.add_class()
    world.add_template(volumeClaimTemplates=[{"metadata": {"name": "home"}}])
    world.add_snapshot()
    world.settle()
    assert world.phase is FAILED
    assert "volumeClaimTemplates" in world.status.message


def test_a_runtime_class_that_does_not_exist_leaves_no_target() -> None:
    """Defect 47."""
    world = World()
    world.add_node("node-a")
    world.add_class()
    world.add_template({"runtimeClassName": "microvm", "containers": [{"name": "x"}]})
    world.add_snapshot()
    world.settle()
    assert world.phase is FAILED
    assert "RuntimeClass 'microvm'" in world.status.message
    assert world.reasons()[-1] == "NoTargetNodes"
    world.cluster.create(RUNTIME_CLASSES, {"metadata": {"name": "microvm"}, "handler": "x"})
    world.settle()
    assert world.phase is READY


def test_contradicting_selectors_leave_no_target() -> None:
    """Defect 46."""
    world = World()
    world.add_node("node-a", zone="a")
    world.add_class(nodeSelector={"zone": "a"})
    world.add_template({"nodeSelector": {"zone": "b"}, "containers": [{"name": "x"}]})
    world.add_snapshot()
    world.settle()
    assert world.phase is FAILED
    assert "no node can match" in world.status.message


@pytest.mark.parametrize("text", ["{", '{"artifactSets": []}', '{"schemaVersion": 99}'])
def test_a_record_that_cannot_be_read_is_left_alone_and_told(text: str) -> None:
    world = make_ready_world("node-a")
    world.store.texts[str(world.key)] = text.encode()
    world.settle()
    assert world.phase is FAILED
    assert world.reasons()[-1] == "ManifestCorrupt"
    world.run_for(3000)
    assert world.store.texts[str(world.key)] == text.encode()
    assert world.agents.artifacts


def test_a_record_of_another_owner_is_left_alone_and_told() -> None:
    """Defect 42."""
    world = make_ready_world("node-a")
    raw = world.store.texts[str(world.key)]
    uid = world.snapshot.metadata.uid.encode()
    world.store.texts[str(world.key)] = raw.replace(b'"uid":"' + uid, b'"uid":"another')
    world.settle()
    assert world.phase is FAILED
    assert world.reasons()[-1] == "ManifestCorrupt"


def test_the_owner_is_in_the_record() -> None:
    """Defect 42."""
    world = make_ready_world("node-a")
    owner = world.manifest.owner_ref
    assert owner is not None
    assert (owner.kind, owner.name, owner.uid) == (
        "SandboxSnapshot",
        NAME,
        world.snapshot.metadata.uid,
    )


def test_a_guest_without_the_protocol_is_not_tried_again() -> None:
    world = make_world("node-a")
    world.agents.failures["node-a"] = ["ProtocolNotSupported: 404 from the guest"]
    world.run_for(20_000)
    assert world.phase is FAILED
    assert world.condition("ProtocolNotSupported") == "True"
    assert world.artifact("node-a").attempt == 1


def test_a_contaminated_build_is_told_at_the_snapshot_once_for_each_attempt() -> None:
    world = make_world("node-a", "node-b")
    for node in ("node-a", "node-b"):
        world.agents.failures[node] = ["SnapshotContaminationDetected: a socket to somewhere"]
    world.settle()
    told = [one for one in world.events if one.reason == "SnapshotContaminationDetected"]
    assert [one.is_warning for one in told] == [True]
    for node in ("node-a", "node-b"):
        assert f"{node}: SnapshotContaminationDetected: a socket to" in told[0].message
    world.run_for(20_000)
    assert world.phase is READY
    assert world.reasons().count("SnapshotContaminationDetected") == 1


def test_a_lost_record_is_built_anew_under_keys_that_never_were() -> None:
    world = make_ready_world("node-a")
    old = world.active.snapshot_key
    world.store.texts.clear()
    world.settle()
    assert world.phase is READY
    assert world.active.snapshot_key != old
    assert world.manifest.rebuild_seq > 1_000_000


def test_status_is_written_only_when_it_changes() -> None:
    world = make_ready_world("node-a", "node-b")
    assert world.plan().steps == ()
    assert not [step for step in world.plan().steps if isinstance(step, WriteStatus)]


def test_the_classes_provider_decides_which_nodes_matter() -> None:
    world = make_world("node-a")
    world.add_node("node-b", provider="snapstart.kuasar.io")
    world.settle()
    assert world.counts_of_nodes == (0, 1, 0, 0)
    assert world.artifact("node-a").provider_name == PROVIDER
    assert world.artifact("node-a").phase is ArtifactPhase.READY


@pytest.mark.parametrize(
    "build",
    [{}, {names.KUASAR_READY_VERSION: "1", "kuasar.io/template-id": "x"}],
    ids=["unmarked", "selector"],
)
def test_a_class_that_kuasar_cannot_serve_fails_its_snapshots(build: dict[str, str]) -> None:
    world = World()
    world.add_node("node-a", provider="snapstart.kuasar.io")
    world.add_class(providerName="snapstart.kuasar.io", buildPodAnnotations=build)
    world.add_template()
    world.add_snapshot()
    world.settle()
    assert world.status.phase is SnapshotPhase.FAILED
    assert "spec.buildPodAnnotations[kuasar.io/" in world.status.message
