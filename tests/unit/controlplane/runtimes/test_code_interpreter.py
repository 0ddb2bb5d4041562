"""The template controller against an API server in memory."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest

from controlplane.api.meta import JsonObject
from controlplane.errors import ConflictError, UnavailableError
from controlplane.kube.resource import CODE_INTERPRETERS, SECRETS, sandbox_templates
from controlplane.runtimes.code_interpreter import CodeInterpreterController
from controlplane.runtimes.condition import TYPE
from controlplane.runtimes.plan import Emit
from controlplane.runtimes.public_key import MEMBER, SECRET, PublicKey, read_key
from controlplane.runtimes.types import CodeInterpreter
from tests.fakes.kube import FakeKube
from tests.unit.controlplane.runtimes.objects import KEY, NOW

TEMPLATES = sandbox_templates("v1beta1")
OWNER: JsonObject = {
    "metadata": {"name": "python", "namespace": "team"},
    "spec": {"template": {"image": "py:1"}, "authMode": "picod"},
}
ROUTER_SECRET: JsonObject = {
    "metadata": {"name": SECRET, "namespace": "agentcube"},
    "data": {MEMBER: base64.b64encode(KEY.encode()).decode()},
}


class World:
    """An API server, a controller, what it announced."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.now: datetime = NOW
        self.events: list[Emit] = []
        self.key = PublicKey(self.kube, "agentcube")
        self.controller = self.new_controller()

    def new_controller(self) -> CodeInterpreterController:
        return CodeInterpreterController(
            self.kube, TEMPLATES, self.key, self._announce, lambda: self.now
        )

    async def _announce(self, _: CodeInterpreter, event: Emit) -> None:
        self.events.append(event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.controller.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    @property
    def template(self) -> JsonObject | None:
        found = self.kube.cluster.objects(TEMPLATES)
        return found[0] if found else None

    @property
    def reason(self) -> str:
        owner = self.kube.cluster.get(CODE_INTERPRETERS, "python", "team")
        conditions = owner.get("status", {}).get("conditions", [])
        return next((one["reason"] for one in conditions if one["type"] == TYPE), "")

    def damage(self, **members: Any) -> None:
        """Somebody changes the Pod template."""
        patch = {"spec": {"podTemplate": {"spec": members}}}
        self.kube.cluster.merge(TEMPLATES, "python", patch, namespace="team")


async def until(is_so: Callable[[], object]) -> None:
    """Give way to the controller until something is so; the test's time-out ends it."""
    while not is_so():  # noqa: ASYNC110 - what is waited for is in a plain object
        await asyncio.sleep(0.001)


@pytest.fixture
def world() -> World:
    world = World()
    world.kube.cluster.create(CODE_INTERPRETERS, OWNER)
    world.kube.cluster.create(SECRETS, ROUTER_SECRET)
    return world


async def settle(world: World) -> None:
    """Until the condition says that the template is kept."""
    await until(lambda: world.reason == "TemplateApplied" and world.events)


async def test_a_template_appears_without_a_warm_pool(world: World) -> None:
    async with world.running():
        await settle(world)
    assert world.template is not None
    [container] = world.template["spec"]["podTemplate"]["spec"]["containers"]
    assert container["env"] == [{"name": "PICOD_AUTH_PUBLIC_KEY", "value": KEY}]
    assert [event.reason for event in world.events] == ["TemplateApplied"]


async def test_nothing_is_written_while_nothing_changes(world: World) -> None:
    async with world.running():
        await settle(world)
        writes = world.kube.writes
        world.controller = world.new_controller()
        async with world.running():
            for _ in range(50):
                await asyncio.sleep(0.001)
    assert world.kube.writes == writes


async def test_drift_of_every_sort_is_repaired(world: World) -> None:
    async with world.running():
        await settle(world)
        assert world.template is not None
        good = world.template["spec"]
        world.damage(nodeSelector={"evil": "1"}, containers=[{"name": "x"}])
        await until(lambda: world.template and world.template["spec"] == good)


async def test_a_deleted_template_comes_back_until_it_is_a_quarrel(world: World) -> None:
    async with world.running():
        await settle(world)
        for _ in range(2):
            world.kube.cluster.delete(TEMPLATES, "python", namespace="team")
            await until(lambda: world.template is not None)
        world.kube.cluster.delete(TEMPLATES, "python", namespace="team")
        await until(lambda: world.reason == "TemplateContested")
    assert world.template is None
    assert world.events[-1].is_warning


async def test_a_template_of_agentcube_is_left_alone(world: World) -> None:
    foreign = {"metadata": {"name": "python", "namespace": "team"}, "spec": {"podTemplate": {}}}
    world.kube.cluster.create(TEMPLATES, foreign)
    async with world.running():
        await until(lambda: world.reason == "TemplateNotOurs")
    assert world.template is not None
    assert world.template["spec"] == {"podTemplate": {}}


async def test_no_key_no_template_until_the_router_has_made_one(world: World) -> None:
    world.kube.cluster.delete(SECRETS, SECRET, namespace="agentcube")
    async with world.running():
        await until(lambda: world.reason == "PublicKeyMissing")
        assert world.template is None
        world.kube.cluster.create(SECRETS, ROUTER_SECRET)
        await world.key.look()
        touch = {"metadata": {"labels": {"touched": "1"}}}
        world.kube.cluster.merge(CODE_INTERPRETERS, "python", touch, namespace="team")
        await until(lambda: world.template is not None)


async def test_a_rotated_key_reaches_the_template(world: World) -> None:
    async with world.running():
        await settle(world)
        world.key.value = KEY + "2"
        world.controller._enqueue_all()
        await until(lambda: world.template and KEY + "2" in str(world.template))
    assert world.reason == "TemplateApplied"


@pytest.mark.parametrize("op", ["apply", "merge", "get"])
@pytest.mark.parametrize("is_done", [False, True], ids=["refused", "answer lost"])
async def test_any_failing_call_is_made_good(world: World, op: str, is_done: bool) -> None:
    world.kube.fail_next(op, UnavailableError("gone"), is_done=is_done)
    async with world.running():
        await until(lambda: world.reason == "TemplateApplied")
    assert world.template is not None


async def test_a_conflict_with_a_writer_of_the_status_is_resolved(world: World) -> None:
    world.kube.fail_next("merge", ConflictError("somebody else"), count=2)
    async with world.running():
        await settle(world)


async def test_a_forgotten_interpreter_leaves_no_memory(world: World) -> None:
    async with world.running():
        await settle(world)
        world.kube.cluster.delete(CODE_INTERPRETERS, "python", namespace="team")
        await until(lambda: not world.controller._memories)


async def test_a_server_that_does_not_answer_takes_no_key_away(world: World) -> None:
    await world.key.look()
    world.kube.fail_next("get", UnavailableError("gone"))
    with pytest.raises(UnavailableError):
        await world.key.look()
    assert world.key.value == KEY


@pytest.mark.parametrize(
    "data", [None, {}, {MEMBER: "%"}, {MEMBER: "/w=="}, {MEMBER: "bm8ga2V5"}], ids=str
)
def test_what_is_no_key_is_none(data: dict[str, str] | None) -> None:
    assert read_key({"data": data}) == ""
