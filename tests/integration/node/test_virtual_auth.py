"""Pods that bring the key of their HTTP interface, on real machines."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentd.image import Image
from controlplane.api import names
from controlplane.kube.resource import PODS
from tests.adapters.guest.keys import make_key, make_token, public_pem
from tests.adapters.node.world import KEY, World, new_cluster
from tests.integration.node.test_virtual_node import GATE, call, root, running

__all__ = ["root"]


def keyed(name: str) -> list[dict[str, Any]]:
    """The variables of a container of AgentCube."""
    return [{"name": "PICOD_AUTH_PUBLIC_KEY", "value": public_pem(make_key(name))}]


async def post(address: str, key: str = "", ends_in_s: float = 600) -> tuple[int, str]:
    """Run `env` in a Pod with a token of that key, or with none: status, output."""
    headers = {"Authorization": f"Bearer {make_token(make_key(key), ends_in_s)}"} if key else {}
    body = {"command": ["env"]}
    url = f"http://{address}:8080/api/execute"
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.post(url, json=body) as answer,
    ):
        return answer.status, str((await answer.json()).get("stdout", ""))


async def until_started(world: World, name: str, source: str) -> str:
    """Its address, once it is known to have started from there."""
    pod = await world.until_ready(name)
    await world.until(
        lambda: world.get(PODS, name)["metadata"]["annotations"].get(names.STARTED_FROM) == source
    )
    return str(pod["status"]["podIP"])


async def require_tokens(address: str) -> None:
    """Nobody is served but who has a token of the router's."""
    assert (await post(address))[0] == 401
    statuses = await asyncio.gather(
        post(address, "another"), post(address, "router", -120), post(address, "router")
    )
    assert [status for status, _ in statuses] == [401, 401, 200]
    assert "PICOD" not in statuses[-1][1]
    assert await call(address, "/health") == (200, {"status": "ok", "gate": "open"})
    assert (await call(address, "/runtime/status"))[0] == 200


@pytest.mark.timeout(400)
async def test_a_pod_with_a_key_serves_only_who_has_a_token(root: Path, guest_image: Image) -> None:
    container: dict[str, Any] = {"image": "python:3.11", "env": keyed("router")}
    async with running(root, new_cluster(), guest_image) as world:
        snapshot = world.snapshot()
        build = container | {"env": container["env"] + GATE["env"]}
        world.pod("build-1", owner=world.build_sandbox(snapshot), container=build)
        await world.until_ready("build-1")
        world.task(snapshot)
        assert (await world.until_task("Ready"))["message"] == ""

        world.pod("forked", key=KEY, container=container)
        await require_tokens(await until_started(world, "forked", names.FROM_SNAPSHOT))
        world.pod("booted", container=container)
        await require_tokens(await until_started(world, "booted", names.FROM_IMAGE))
        world.pod("open", key=KEY, container={"image": "python:3.11"})
        assert (await post(await until_started(world, "open", names.FROM_SNAPSHOT)))[0] == 200
        for name in ("forked", "booted", "open"):
            world.kube.cluster.delete(PODS, name, namespace="team", grace_s=0)
        await world.until(lambda: world.machines() == [])
