"""A Node's condition follows its sandboxer, and touches nothing that a kubelet keeps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentd.kuasar.client import Form
from agentd.node.sandboxer_condition import CONDITION, HEARTBEAT, LABEL, SandboxerCondition
from agentd.settings import Kuasar
from controlplane.api.meta import JsonObject
from controlplane.errors import NotFoundError, UnavailableError
from controlplane.kube.resource import NODES
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kube import FakeKube

both_forms = pytest.mark.parametrize("form", list(Form), ids=["json", "grpc"])
START = datetime(2026, 1, 1, tzinfo=UTC)
READY = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
GOOD = """
[hypervisor]
container_storage_backend = "virtio-blk"
[template_pool]
store_dir = "/var/lib/kuasar/pool"
[template_pool.warmfork]
lease_mode = "shared"
[sandbox.snapshot]
enable_warmfork_restore = true
default_memory_restore_mode = "ondemand"
"""
EXCLUSIVE = GOOD.replace("shared", "exclusive")


class World:
    """A Node that a kubelet keeps, on a machine with a sandboxer."""

    def __init__(self, root: Path, form: Form) -> None:
        self.kube = FakeKube()
        self.kube.cluster.create(
            NODES,
            {
                "metadata": {"name": "node-a", "labels": {"zone": "a"}},
                "status": {"conditions": [READY], "capacity": {"cpu": "8"}},
            },
        )
        self.node = KuasarNode(root, form)
        self.config = root / "config.toml"
        self.config.write_text(GOOD)
        self.now = START
        self.steps: list[str] = []
        settings = Kuasar(
            enabled=True,
            admin_socket=self.node.admin_path,
            grpc_socket=self.node.grpc_path,
            cri_socket=self.node.cri_path,
            config_file=self.config,
        )
        self.condition = SandboxerCondition(self.kube, settings, "node-a", self, lambda: self.now)

    def step(self, event: str, /, **details: str | int | float) -> None:
        """A Tracer."""
        self.steps.append(event)

    async def refresh(self, after_s: float = 60.0) -> None:
        """Some time later."""
        self.now += timedelta(seconds=after_s)
        await self.condition.refresh()

    def get(self) -> JsonObject:
        """The Node."""
        found: JsonObject = self.kube.cluster.get(NODES, "node-a")
        return found

    def said(self) -> tuple[str, str]:
        """Status and reason of the condition."""
        found = self.conditions()[CONDITION]
        return found["status"], found["reason"]

    def conditions(self) -> dict[str, Any]:
        """All, by type."""
        return {one["type"]: one for one in self.get()["status"]["conditions"]}

    def label(self) -> str | None:
        """What the label says."""
        value: str | None = self.get()["metadata"]["labels"].get(LABEL)
        return value


@asynccontextmanager
async def node_world(root: Path, form: Form = Form.GRPC) -> AsyncIterator[World]:
    world = World(root, form)
    async with world.node:
        yield world


@both_forms
async def test_a_good_node_says_so(tmp_path: Path, form: Form) -> None:
    async with node_world(tmp_path, form) as world:
        await world.refresh()
        assert world.said() == ("True", "UsableWithWarnings")
        assert "fallback_to_fresh_boot" in world.conditions()[CONDITION]["message"]
        assert world.label() == form.value


@both_forms
async def test_single_use_leases_are_shown(tmp_path: Path, form: Form) -> None:
    async with node_world(tmp_path, form) as world:
        await world.refresh()
        world.config.write_text(EXCLUSIVE)
        await world.refresh()
        assert world.said() == ("False", "LeaseMode")
        assert "'exclusive'" in world.conditions()[CONDITION]["message"]
        world.config.write_text(GOOD)
        await world.refresh()
        assert world.said()[0] == "True"


@both_forms
async def test_a_node_that_never_restores_is_shown(tmp_path: Path, form: Form) -> None:
    async with node_world(tmp_path, form) as world:
        world.config.write_text(GOOD.replace("restore = true", "restore = false"))
        await world.refresh()
        assert world.said() == ("False", "EnableWarmforkRestore")


async def test_settings_that_are_not_there_leave_it_unknown(tmp_path: Path) -> None:
    async with node_world(tmp_path) as world:
        world.config.unlink()
        await world.refresh()
        assert world.said() == ("Unknown", "SettingsUnknown")


@both_forms
async def test_a_sandboxer_that_dies_is_seen_and_one_that_comes_back(
    tmp_path: Path, form: Form
) -> None:
    async with node_world(tmp_path, form) as world:
        await world.refresh()
        await world.node.stop()
        await world.refresh()
        assert world.said() == ("False", "DeadSocket")
        assert world.label() == "dead-socket"
        await world.node.start()
        await world.refresh()
        assert world.said()[0] == "True"
        assert world.label() == form.value


@both_forms
async def test_the_agent_is_as_ready_as_its_sandboxer_can_be_used(
    tmp_path: Path, form: Form
) -> None:
    async with node_world(tmp_path, form) as world:
        assert "not asked" in world.condition.look().detail
        assert not world.condition.look().is_ready
        await world.refresh()
        assert world.condition.look().is_ready
        await world.node.stop()
        world.kube.partition()
        with pytest.raises(UnavailableError):
            await world.refresh()
        assert not world.condition.look().is_ready, "whether or not the cluster can be told"
        await world.node.start()
        world.kube.heal()
        await world.refresh()
        assert world.condition.look().is_ready


async def test_settings_that_spoil_forks_are_a_condition_and_not_unreadiness(
    tmp_path: Path,
) -> None:
    async with node_world(tmp_path) as world:
        world.config.write_text(EXCLUSIVE)
        await world.refresh()
        assert world.said()[0] == "False"
        assert world.condition.look().is_ready


async def test_nothing_of_the_kubelets_is_touched(tmp_path: Path) -> None:
    async with node_world(tmp_path) as world:
        await world.refresh()
        pressure = {"type": "MemoryPressure", "status": "False"}
        world.kube.cluster.merge(
            NODES,
            "node-a",
            {"status": {"conditions": [*world.conditions().values(), pressure]}},
            subresource="status",
        )
        world.config.write_text(EXCLUSIVE)
        await world.refresh()
        found = world.conditions()
        assert (found["Ready"], found["MemoryPressure"]) == (READY, pressure)
        assert found[CONDITION]["status"] == "False"
        assert world.get()["status"]["capacity"] == {"cpu": "8"}
        assert world.get()["metadata"]["labels"]["zone"] == "a"


async def test_the_same_is_said_again_only_as_a_heartbeat(tmp_path: Path) -> None:
    async with node_world(tmp_path) as world:
        await world.refresh()
        first, asked = world.conditions()[CONDITION], world.kube.counts.total()
        for _ in range(4):
            await world.refresh()
        assert world.kube.counts.total() == asked
        await world.refresh(after_s=HEARTBEAT.total_seconds())
        second = world.conditions()[CONDITION]
        assert second["lastHeartbeatTime"] > first["lastHeartbeatTime"]
        assert second["lastTransitionTime"] == first["lastTransitionTime"]


async def test_a_heartbeat_puts_back_a_label_that_somebody_took(tmp_path: Path) -> None:
    async with node_world(tmp_path) as world:
        await world.refresh()
        world.kube.cluster.merge(NODES, "node-a", {"metadata": {"labels": {LABEL: None}}})
        await world.refresh(after_s=HEARTBEAT.total_seconds())
        assert world.label() == Form.GRPC.value


async def test_what_could_not_be_told_is_told_the_next_time(tmp_path: Path) -> None:
    async with node_world(tmp_path) as world:
        world.kube.fail_next("apply", UnavailableError("apply nodes: 503"))
        with pytest.raises(UnavailableError):
            await world.refresh()
        await world.refresh()
        assert world.said()[0] == "True"


async def test_a_node_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    async with node_world(tmp_path) as world:
        await world.refresh()
        world.kube.cluster.delete(NODES, "node-a")
        world.config.write_text(EXCLUSIVE)
        with pytest.raises(NotFoundError):
            await world.refresh()
        await world.condition.withdraw()
        assert world.kube.cluster.objects(NODES) == ()


async def test_withdrawing_takes_label_and_condition_away(tmp_path: Path) -> None:
    async with node_world(tmp_path) as world:
        await world.refresh()
        await world.condition.withdraw()
        assert set(world.conditions()) == {"Ready"}
        assert world.label() is None
        await world.refresh()
        assert world.said()[0] == "True", "a successor says it again"


async def test_withdrawing_never_fails(tmp_path: Path) -> None:
    async with node_world(tmp_path) as world:
        await world.refresh()
        world.kube.partition()
        await world.condition.withdraw()
        assert "node.sandboxer.failed" in world.steps


async def test_it_runs_on_when_the_api_server_is_away(tmp_path: Path) -> None:
    async with node_world(tmp_path) as world:
        world.kube.partition()
        running = asyncio.create_task(world.condition.run())
        while "node.sandboxer.failed" not in world.steps:  # noqa: ASYNC110 - it has a time-out
            await asyncio.sleep(0.01)
        assert not running.done()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
