"""The first form's actions against a sandboxer of either form, through the driver."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentd.kuasar.client import Form
from agentd.kuasar.cri import Cri
from agentd.providers.driver import SnapshotOwner
from agentd.proxy.run import Outside, serving
from agentd.settings import Proxy
from tests.adapters.providers.kuasar_world import KuasarWorld, kuasar_world
from tests.adapters.proxy.world import (
    ADDRESS,
    CLUSTER,
    CREATE,
    LIST,
    NODE,
    OWNER,
    TOKEN,
    Answer,
    Caller,
    all_written,
    connections,
    delete,
    post,
    until,
)
from tests.fakes.kuasar.sandboxer import Sandbox, Template

KEY = str(CREATE["key"])


class Proxied:
    """A node with its agent's proxy, and a control plane of the first form."""

    def __init__(self, kuasar: KuasarWorld, caller: Caller) -> None:
        self.kuasar = kuasar
        self.caller = caller
        self._pods = 0

    def pod(self, **facts: Any) -> Sandbox:
        """One that waits at its checkpoint."""
        self._pods += 1
        return self.kuasar.sandboxer.run(f"pod-{self._pods}", **facts)

    async def create(self, sandbox: Sandbox, **changes: Any) -> Answer:
        return await self.caller.ask({**CREATE, "sandbox_id": sandbox.id, **changes})

    async def made(self, sandbox: Sandbox, **changes: Any) -> str:
        """The id of a template that was made."""
        answer = await self.create(sandbox, **changes)
        assert answer.status == 200, answer
        return str(answer.json["template_id"])

    async def listed(self) -> list[dict[str, Any]]:
        answer = await self.caller.ask(LIST)
        assert answer.status == 200, answer
        found: list[dict[str, Any]] = answer.json["templates"]
        return found

    async def delete(self, template_id: str) -> tuple[int, str]:
        answer = await self.caller.ask(delete(template_id))
        return answer.status, answer.json.get("error", "")

    @property
    def templates(self) -> list[Template]:
        """What the sandboxer has itself."""
        return [*self.kuasar.sandboxer.templates.values()]


def outside_of(world: KuasarWorld, cluster: str = CLUSTER) -> Outside:
    return Outside(
        settings=Proxy(enabled=True),
        environ={"KUASAR_PROXY_TOKEN": TOKEN},
        node_name=NODE,
        node_addresses=(),
        cluster=cluster,
        driver=world.driver,
        access=world.access,
        pods=Cri(world.node.cri_path),
    )


@asynccontextmanager
async def proxied(world: KuasarWorld, cluster: str = CLUSTER) -> AsyncIterator[Proxied]:
    async with serving(outside_of(world, cluster), ADDRESS, 0) as port:
        yield Proxied(world, Caller(port))


@pytest.fixture(params=list(Form), ids=lambda form: form.name.lower())
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KuasarWorld]:
    with all_written():
        async with kuasar_world(tmp_path, request.param) as made:
            yield made


@pytest.fixture
async def node(world: KuasarWorld) -> AsyncIterator[Proxied]:
    async with proxied(world) as made:
        yield made


async def test_a_template_is_made_told_and_deleted(node: Proxied) -> None:
    template_id = await node.made(node.pod())
    assert [one.key for one in node.templates] == [KEY]
    (told,) = await node.listed()
    assert told.pop("created_at").endswith("Z")
    assert told == {
        "template_id": template_id,
        "key": KEY,
        "snapshot_type": "warm_fork",
        "lease_count": 0,
        "owner": OWNER,
    }
    assert await node.delete(template_id) == (200, "")
    assert node.templates == []
    assert await node.listed() == []
    assert await node.delete(template_id) == (200, "")


async def test_an_id_is_the_sandboxers_where_it_tells_one(node: Proxied) -> None:
    template_id = await node.made(node.pod())
    is_told = node.kuasar.node.form is Form.JSON
    assert (template_id in {one.template_id for one in node.templates}) is is_told


async def test_a_create_that_is_repeated_makes_no_second_template(node: Proxied) -> None:
    sandbox = node.pod()
    first = await node.made(sandbox)
    assert await node.made(sandbox) == first
    node.kuasar.sandboxer.end(sandbox)
    assert await node.made(sandbox) == first
    assert len(node.templates) == 1


async def test_a_create_whose_reply_was_lost_is_found(node: Proxied) -> None:
    sandbox = node.pod()
    node.kuasar.fail(None, None, "drop")
    template_id = await node.made(sandbox)
    assert [one["template_id"] for one in await node.listed()] == [template_id]
    assert len(node.templates) == 1


async def test_a_rebuild_has_another_id_and_the_old_one_is_gone(node: Proxied) -> None:
    old = await node.made(node.pod())
    new = await node.made(node.pod())
    assert old != new
    assert [one["template_id"] for one in await node.listed()] == [new]
    assert await node.delete(old) == (200, "")
    assert [one["template_id"] for one in await node.listed()] == [new]


async def test_what_is_in_use_stays_and_is_told_in_use(node: Proxied) -> None:
    template_id = await node.made(node.pod())
    session = node.kuasar.sandboxer.restore(KEY, "session")
    assert await node.delete(template_id) == (409, "template_in_use")
    answer = await node.create(node.pod())
    assert (answer.status, answer.json["error"]) == (409, "template_in_use")
    assert len(node.templates) == 1
    node.kuasar.sandboxer.end(session)
    assert await node.delete(template_id) == (200, "")
    assert node.templates == []


async def test_leases_are_told_where_the_form_tells_them(node: Proxied) -> None:
    await node.made(node.pod())
    node.kuasar.sandboxer.restore(KEY, "session")
    (told,) = await node.listed()
    assert told["lease_count"] == (1 if node.kuasar.node.form is Form.JSON else 0)


async def test_templates_outlive_the_agent(node: Proxied, world: KuasarWorld) -> None:
    template_id = await node.made(node.pod())
    await world.driver.close()
    world.successor()
    async with proxied(world) as later:
        (told,) = await later.listed()
        assert (told["template_id"], told["owner"]) == (template_id, OWNER)
        await world.settle()
        assert await later.delete(template_id) == (200, "")


# -- section 13, 93 and 95 ------------------------------------------------------------------------


async def test_defect_93_what_others_ordered_is_neither_told_nor_deleted(
    node: Proxied, world: KuasarWorld
) -> None:
    owner = SnapshotOwner(CLUSTER, "team", "python", "snap-uid")
    ordered = await world.driver.create(world.request("second-form", owner=owner))
    await world.add_template("by-hand")
    assert await node.listed() == []
    for template in node.templates:
        status, _ = await node.delete(template.template_id)
        # Where ids are not told, one is as good as gone.
        assert status == (403 if world.node.form is Form.JSON else 200)
    for key in ("second-form", "by-hand"):
        answer = await node.create(node.pod(), key=key)
        assert (answer.status, answer.json["error"]) == (409, "template_exists")
    assert sorted(one.key for one in node.templates) == ["by-hand", "second-form"]
    assert await world.driver.inspect("second-form") == ordered


async def test_defect_93_another_installation_sees_nothing_of_this_one(
    node: Proxied, world: KuasarWorld
) -> None:
    template_id = await node.made(node.pod())
    async with proxied(world, cluster="another") as other:
        assert await other.listed() == []
        status, _ = await other.delete(template_id)
        assert status == (403 if world.node.form is Form.JSON else 200)
        answer = await other.create(other.pod())
        assert (answer.status, answer.json["error"]) == (409, "template_exists")
    assert [one["template_id"] for one in await node.listed()] == [template_id]


async def test_defect_95_names_of_objects_are_no_sandboxes(node: Proxied) -> None:
    sandbox = node.pod(name="python-fast-build")
    for wrong in (sandbox.name, sandbox.pod_uid + "-0000000", "0" * 64):
        answer = await node.caller.ask({**CREATE, "sandbox_id": wrong})
        assert (answer.status, answer.json["error"]) == (404, "sandbox_unknown")
    assert node.templates == []


async def test_defect_95_a_sandbox_that_was_replaced_is_not_taken_for_its_successor(
    node: Proxied, world: KuasarWorld
) -> None:
    old, new = node.pod(), node.pod()
    new.pod_uid = old.pod_uid
    world.node.cri.attempts[new.id] = 1
    answer = await node.create(old)
    assert (answer.status, answer.json["error"]) == (404, "sandbox_unknown")
    await node.made(new)


# -- what goes wrong ------------------------------------------------------------------------------


async def test_a_pod_that_is_not_ready_can_be_tried_again(node: Proxied) -> None:
    sandbox = node.pod(is_listening=False)
    answer = await node.create(sandbox)
    assert (answer.status, answer.json["error"]) == (409, "sandbox_not_ready")
    assert int(answer.headers["retry-after"]) > 0
    sandbox.is_listening = True
    await node.made(sandbox)


async def test_a_pod_without_the_authors_promise_is_refused(node: Proxied) -> None:
    answer = await node.create(node.pod(annotations={}))
    assert (answer.status, answer.json["error"]) == (409, "sandbox_unfit")


async def test_a_sandboxer_that_is_away_is_told(node: Proxied, world: KuasarWorld) -> None:
    template_id = await node.made(node.pod())
    await world.node.stop()
    for members in (LIST, delete(template_id), {**CREATE, "sandbox_id": node.pod().id}):
        answer = await node.caller.ask(members)
        assert (answer.status, answer.json["error"]) == (502, "provider_error")
        assert str(world.node.admin_path) not in answer.body.decode()
    await world.node.start()
    assert [one["template_id"] for one in await node.listed()] == [template_id]


async def test_a_caller_that_leaves_leaves_no_guest_paused(
    node: Proxied, world: KuasarWorld
) -> None:
    begun, go_on = world.pause_at_snapshots()
    sandbox = node.pod()
    async with node.caller.connected() as (_, writer):
        writer.write(post(json.dumps({**CREATE, "sandbox_id": sandbox.id}).encode()))
        await begun.wait()
    await until(lambda: not connections())
    assert world.is_any_paused()
    go_on.set()
    await until(lambda: len(node.templates) == 1)
    assert not world.is_any_paused()
    await node.made(sandbox)
    assert len(node.templates) == 1


async def test_a_proxy_that_ends_leaves_no_guest_paused(world: KuasarWorld) -> None:
    begun, go_on = world.pause_at_snapshots()
    async with proxied(world) as node:
        sandbox = node.pod()
        asking = asyncio.create_task(node.create(sandbox))
        await begun.wait()
    assert (await asking).status == 0
    go_on.set()
    await until(lambda: node.templates)
    assert not world.is_any_paused()
    assert await world.driver.close() == ""
