"""A driver that takes its time, forgets what it made, is asked for the wrong Pod."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ErrorCode, SnapStartError
from agentd.node import task_look, tasks
from agentd.providers.driver import CreateRequest, SnapshotOwner
from agentd.providers.local import LocalDriver
from controlplane.api.types import SnapshotMode
from controlplane.kube.resource import NAMESPACES, PODS, TASKS
from tests.adapters.node.world import HASH, KEY, World, new_cluster, running_world

GATE = {"env": [{"name": "AGENTCUBE_SESSION_GATE", "value": "true"}]}
# More than the workers that look at tasks.
SLOW_TASKS = 6


async def ready_build(world: World) -> dict[str, Any]:
    snapshot = world.snapshot()
    world.pod("build-1", owner=world.build_sandbox(snapshot), container=GATE)
    await world.until_ready("build-1")
    return snapshot


def request(world: World, snapshot: dict[str, Any], **changes: Any) -> CreateRequest:
    cluster = world.kube.cluster.get(NAMESPACES, "kube-system")["metadata"]["uid"]
    meta = snapshot["metadata"]
    values = {
        "pod_uid": world.get(PODS, "build-1")["metadata"]["uid"],
        "pod_namespace": "team",
        "pod_name": "build-1",
        "key": KEY,
        "snapshot_hash": HASH,
        "mode": SnapshotMode.FORK,
        "owner": SnapshotOwner(str(cluster), "team", meta["name"], meta["uid"]),
    }
    return CreateRequest(**{**values, **changes})


def make_seals_endless(world: World, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Returns: set once a seal has begun."""
    begun, never = asyncio.Event(), asyncio.Event()

    async def seal(*_: object) -> None:
        begun.set()
        await never.wait()

    monkeypatch.setattr(world.engine.held, "seal", seal)
    return begun


async def test_defect_62_slow_builds_keep_no_other_task_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        make_seals_endless(world, monkeypatch)
        slow = [f"slow-{number}" for number in range(SLOW_TASKS)]
        for name in slow:
            world.task(snapshot, name=name)
        for name in slow:
            await world.until_task("Creating", name)
        world.task(snapshot, name="look", operation="Inspect", snapshotKey="never-made")
        await world.until_task("Failed", "look")


async def test_defect_20_a_build_that_never_ends_is_given_up_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "CREATE_S", 0.05)
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        make_seals_endless(world, monkeypatch)
        world.task(snapshot)
        await world.until(lambda: "DriverCreateFailed" in world.events())
        status = await world.until_task("Creating")
        assert status["message"] == "the driver did not finish in time"
        assert status["attempts"] == 1


async def test_a_provider_that_does_not_say_what_it_can_do_can_do_nothing_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_driver: LocalDriver) -> frozenset[SnapshotMode]:
        await asyncio.Event().wait()
        raise AssertionError

    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        monkeypatch.setattr(task_look, "LIGHT_S", 0.5)
        monkeypatch.setattr(LocalDriver, "capabilities", never)
        world.task(snapshot)
        await world.until(
            lambda: "cannot Fork here now" in world.get(TASKS, "task-1")["status"]["message"]
        )
        await world.until(lambda: "SnapshotModeNotSupported" in world.events())


async def test_defect_63_what_the_driver_made_is_looked_at_before_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        seal = world.engine.held.seal

        async def spoil(*args: Any) -> object:
            made = await seal(*args)
            memory = world.settings.data_dir / "templates" / KEY / "memory"
            with memory.open("ab") as file:
                file.write(b"more")
            return made

        monkeypatch.setattr(world.engine.held, "seal", spoil)
        world.task(snapshot)
        status = await world.until_task("Failed")
        assert "what is there now" in status["message"]
        assert "SnapshotCreated" not in world.events()


async def test_defect_66_a_build_is_found_by_the_uid_of_its_pod_not_by_a_name(
    tmp_path: Path,
) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        snapshot = await ready_build(world)
        driver = LocalDriver(world.engine, lambda: True)
        with pytest.raises(SnapStartError) as caught:
            await driver.create(request(world, snapshot, pod_uid="of-a-former-pod"))
        assert caught.value.code is ErrorCode.SESSION_ENDED
        assert len(world.engine.held.list()) == 1, "the build of the Pod that is there still waits"
        assert (await driver.create(request(world, snapshot))).is_ready
