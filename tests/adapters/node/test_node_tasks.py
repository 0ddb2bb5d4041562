"""Tasks, driver and sweep, on fake machines."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, SnapStartError
from agentd.node.sweep import Sweep
from agentd.providers.driver import CreateRequest, SnapshotOwner
from agentd.providers.local import LocalDriver
from agentd.wire.api import CreateTemplate, TemplateState
from controlplane.api.types import SnapshotMode
from controlplane.errors import UnavailableError
from controlplane.kube.resource import NAMESPACES, PODS, SNAPSHOTS, TASKS
from tests.adapters.node.world import HASH, KEY, SANDBOXES, World, new_cluster, running_world

GATE = {"env": [{"name": "AGENTCUBE_SESSION_GATE", "value": "true"}]}


async def ready_build(world: World) -> dict[str, object]:
    """A snapshot with its build Sandbox, whose Pod waits."""
    snapshot = world.snapshot()
    world.pod("build-1", owner=world.build_sandbox(snapshot), container=GATE)
    await world.until_ready("build-1")
    return snapshot


def owner_of(snapshot: dict[str, object], world: World) -> SnapshotOwner:
    meta: dict[str, str] = snapshot["metadata"]  # type: ignore[assignment]
    return SnapshotOwner(cluster_of(world), "team", meta["name"], meta["uid"])


def cluster_of(world: World) -> str:
    return str(world.kube.cluster.get(NAMESPACES, "kube-system")["metadata"]["uid"])


async def test_a_task_makes_the_artifact_and_stamps_every_write(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        world.task(snapshot)
        status = await world.until_task("Ready")
        assert status["observedAt"]
        assert status["startedAt"]
        assert (status["attempts"], status["message"]) == (1, "")
        assert status["podUID"] == world.get(PODS, "build-1")["metadata"]["uid"]
        await world.until(lambda: "SnapshotCreated" in world.events())
        again = world.task(snapshot, name="task-2")
        assert again["metadata"]["name"] == "task-2"
        status = await world.until_task("Ready", "task-2")
        assert "attempts" not in status, "the artifact was there: nothing was built again"


async def test_a_contaminated_guest_fails_the_task_for_good(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.vmm.faults.add("contaminated")
        snapshot = await ready_build(world)
        world.task(snapshot)
        status = await world.until_task("Failed")
        assert "contaminated" in status["message"]
        assert status["message"].startswith("SnapshotContaminationDetected: ")
        await world.until(lambda: "SnapshotContaminationDetected" in world.events())
        await world.until(lambda: world.get(PODS, "build-1")["status"]["phase"] == "Failed")
        assert world.engine.templates.find(KEY) is None
        assert world.machines() == []


async def test_a_guest_that_lacks_the_protocol_at_the_seal_fails_its_task(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.vmm.faults.add("no_status")
        snapshot = await ready_build(world)
        world.task(snapshot)
        status = await world.until_task("Failed")
        assert status["message"].startswith("ProtocolNotSupported: ")
        assert status["attempts"] == 1


async def test_a_guest_that_lacks_the_protocol_before_it_waits_fails_its_task(
    tmp_path: Path,
) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.vmm.faults.add("no_checkpoint")
        snapshot = world.snapshot()
        world.pod("build-1", owner=world.build_sandbox(snapshot), container=GATE)

        def waiting() -> str:
            status = world.get(PODS, "build-1")["status"]["containerStatuses"][0]
            return str(status["state"]["waiting"]["reason"])

        await world.until(lambda: waiting() == "ProtocolNotSupported")
        world.task(snapshot)
        status = await world.until_task("Failed")
        assert status["message"].startswith("ProtocolNotSupported: ")
        assert "unknown_service" in status["message"]
        assert "attempts" not in status


async def test_a_session_is_never_made_an_artifact(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = world.snapshot()
        sandbox = world.make(SANDBOXES, "build-1", spec={"podTemplate": {"spec": {}}})
        world.set_ready(sandbox)
        world.pod("build-1", owner=sandbox)
        await world.until_ready("build-1")
        world.task(snapshot)
        status = await world.until_task("Failed")
        assert "not controlled by this snapshot" in status["message"]
        assert len(world.engine.sessions.list()) == 1


async def test_a_task_waits_for_its_sandbox(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.task(world.snapshot())
        status = await world.until_task("Creating")
        assert "is not there" in status["message"]
        assert status["observedAt"]


async def test_deleting_a_task_cancels_its_build(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.vmm.faults.add("restless")
        snapshot = await ready_build(world)
        world.task(snapshot)
        await world.until(lambda: world.engine.templates.find(KEY) is not None)
        world.kube.cluster.delete(TASKS, "task-1", namespace="team")
        await world.until(lambda: world.machines() == [])
        await world.until(lambda: world.engine.templates.find(KEY) is None)


async def test_an_outcome_outlives_an_api_server_that_is_away(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        world.task(snapshot)
        await world.until(lambda: world.engine.templates.find(KEY) is not None)
        world.kube.fail_next("merge", UnavailableError("away"), 3, resource=TASKS)
        assert (await world.until_task("Ready"))["attempts"] == 1


async def test_inspection_tells_ready_from_missing(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        world.task(snapshot)
        await world.until_task("Ready")
        world.task(snapshot, name="look", operation="Inspect")
        await world.until_task("Ready", "look")
        world.task(snapshot, name="other", operation="Inspect", snapshotKey="never-made")
        status = await world.until_task("Failed", "other")
        assert status["message"] == "the artifact is missing"


async def test_deletion_removes_the_artifact_and_refuses_while_it_is_used(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        world.task(snapshot)
        await world.until_task("Ready")
        world.pod("user", key=KEY)
        await world.until_ready("user")
        world.task(snapshot, name="remove", operation="Delete")
        await world.until(
            lambda: "its machines run" in world.get(TASKS, "remove")["status"].get("message", "")
        )
        assert world.engine.templates.get(KEY).state is TemplateState.READY
        world.task(snapshot, name="gone", operation="Delete", snapshotKey="never-made")
        await world.until_task("Ready", "gone")


# -- the driver -----------------------------------------------------------------------------------


def request(world: World, snapshot: dict[str, object], **changes: object) -> CreateRequest:
    pod = world.get(PODS, "build-1")["metadata"]
    values: dict[str, object] = {
        "pod_uid": pod["uid"],
        "pod_namespace": "team",
        "pod_name": "build-1",
        "key": KEY,
        "snapshot_hash": HASH,
        "mode": SnapshotMode.FORK,
        "owner": owner_of(snapshot, world),
    }
    return CreateRequest(**{**values, **changes})  # type: ignore[arg-type]


async def test_create_is_idempotent_by_key_and_hash(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        driver = LocalDriver(world.engine, lambda: True)
        wish = request(world, snapshot)
        both = await asyncio.gather(driver.create(wish), driver.create(wish))
        assert both[0] == both[1]
        found = (await driver.list())[0]
        assert (found.key, found.snapshot_hash, found.owner) == (KEY, HASH, wish.owner)
        with pytest.raises(SnapStartError) as caught:
            await driver.create(request(world, snapshot, snapshot_hash="sha256:other"))
        assert caught.value.code is ErrorCode.SESSION_ENDED, "its build is used up"
        assert await driver.inspect(KEY) is None, "what has another hash is removed first"


async def test_a_template_that_no_cluster_ordered_is_neither_used_nor_removed(
    tmp_path: Path,
) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        image = str(tmp_path / "i" / "images" / ("0" * 64))
        world.engine.templates.begin(CreateTemplate(name=KEY, image=image, memory_mib=1))
        await world.until(lambda: world.engine.templates.get(KEY).state is TemplateState.READY)
        driver = LocalDriver(world.engine, lambda: True)
        with pytest.raises(SnapStartError) as caught:
            await driver.create(request(world, snapshot))
        assert caught.value.code is ErrorCode.TEMPLATE_EXISTS
        assert world.engine.templates.get(KEY).state is TemplateState.READY
        assert len(world.engine.held.list()) == 1, "the build still waits"


async def test_a_damaged_artifact_is_not_ready(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        driver = LocalDriver(world.engine, lambda: True)
        assert (await driver.create(request(world, snapshot))).is_ready
        memory = world.settings.data_dir / "templates" / KEY / "memory"
        with memory.open("ab") as file:
            file.write(b"more")
        found = await driver.inspect(KEY)
        assert found is not None
        assert not found.is_ready


async def test_capabilities_follow_the_monitor_and_the_images(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        assert await LocalDriver(world.engine, lambda: True).capabilities() == {SnapshotMode.FORK}
        assert await LocalDriver(world.engine, lambda: False).capabilities() == frozenset()
        world.vmm.faults.add("gone")
        assert await LocalDriver(world.engine, lambda: True).capabilities() == frozenset()


async def test_owner_facts_survive_a_restart(tmp_path: Path) -> None:
    kube = new_cluster()
    async with running_world(tmp_path, kube) as world:
        snapshot = await ready_build(world)
        made = await LocalDriver(world.engine, lambda: True).create(request(world, snapshot))
    async with running_world(tmp_path, kube) as world:
        found = await LocalDriver(world.engine, lambda: True).inspect(KEY)
        assert found is not None
        assert (found.owner, found.snapshot_hash) == (made.owner, made.snapshot_hash)
        assert found.is_ready


# -- orphans --------------------------------------------------------------------------------------


async def swept(world: World, *, minutes: int = 20) -> int:
    """One sweep, so many minutes from now."""
    driver = LocalDriver(world.engine, lambda: True)

    def now() -> datetime:
        return datetime.now(UTC) + timedelta(minutes=minutes)

    drivers = {driver.name: driver}
    return await Sweep(world.kube, drivers, cluster_of(world), world.trace, now).run()


async def test_an_artifact_whose_snapshot_is_gone_is_swept_and_no_other(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        driver = LocalDriver(world.engine, lambda: True)
        await driver.create(request(world, snapshot))
        assert await swept(world) == 0, "its snapshot is there"
        world.kube.cluster.delete(SNAPSHOTS, "python", namespace="team")
        assert await swept(world, minutes=5) == 0, "it is young"
        world.kube.fail_next("get", UnavailableError("away"), resource=SNAPSHOTS)
        assert await swept(world) == 0, "an error is no absence"
        world.kube.fail_next("list", UnavailableError("away"), resource=SNAPSHOTS)
        assert await swept(world) == 0, "a server that does not serve the kind says 404 too"
        assert await swept(world) == 1
        assert world.engine.templates.find(KEY) is None


async def test_another_snapshot_of_that_name_does_not_keep_an_artifact(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        await LocalDriver(world.engine, lambda: True).create(request(world, snapshot))
        world.kube.cluster.delete(SNAPSHOTS, "python", namespace="team")
        world.snapshot()
        assert await swept(world) == 1


async def test_templates_of_nobody_and_of_other_clusters_stay(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        image = str(tmp_path / "i" / "images" / ("0" * 64))
        world.engine.templates.begin(CreateTemplate(name="mine", image=image, memory_mib=1))
        await world.until(lambda: world.engine.templates.get("mine").state is TemplateState.READY)
        ours = owner_of(snapshot, world)
        other = SnapshotOwner("another", "team", ours.snapshot_name, ours.snapshot_uid)
        await LocalDriver(world.engine, lambda: True).create(request(world, snapshot, owner=other))
        world.kube.cluster.delete(SNAPSHOTS, "python", namespace="team")
        assert await swept(world) == 0
