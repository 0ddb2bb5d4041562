"""Pods that are real machines, under an API server in memory."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from agentd.image import Image
from agentd.monitors import make_qemu
from agentd.settings import Settings, load_settings
from controlplane.api import names
from controlplane.kube.resource import PODS
from tests.adapters.node.world import KEY, World, condition, new_cluster, running_agent
from tests.fakes.kube import FakeKube

BOOT_ID = "print(open('/proc/sys/kernel/random/boot_id').read())"
GATE = {"env": [{"name": "AGENTCUBE_SESSION_GATE", "value": "true"}]}


@pytest.fixture
def root() -> Iterator[Path]:
    """Short enough for socket paths."""
    path = Path(tempfile.mkdtemp(prefix="vnode-"))
    yield path
    _end_machines(path)
    shutil.rmtree(path)


def _end_machines(root: Path) -> None:
    """What a failed test has left to a successor that never came."""
    mark = root / "mark"
    prefix = f"guest=snapstart/{mark.read_text()}/" if mark.exists() else "none"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(word.startswith(prefix) for word in process.cmdline()):
                process.kill()


@asynccontextmanager
async def running(root: Path, kube: FakeKube, image: Image, **more: Any) -> AsyncIterator[World]:
    """The agent on real machines; a second one takes over from the first."""
    environ = {
        "SNAPSTART_PATHS__DATA_DIR": str(root / "data"),
        "SNAPSTART_PATHS__RUN_DIR": str(root / "run"),
        "SNAPSTART_PATHS__IMAGE_CACHE_DIR": str(image.directory.parent.parent),
    }
    settings: Settings = load_settings(None, environ)
    (root / "run" / "vms").mkdir(parents=True, exist_ok=True)
    mark = root / "mark"
    if not mark.exists():
        mark.write_text(uuid.uuid4().hex)
    vmm = make_qemu(settings, mark.read_text())
    images = {"python": str(image.directory)}
    try:
        async with running_agent(root, settings, vmm, kube, images=images, **more) as world:
            yield world
    finally:
        vmm.close()


async def call(address: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request to a Pod's address."""
    method = "GET" if body is None else "POST"
    async with (
        aiohttp.ClientSession() as client,
        client.request(method, f"http://{address}:8080{path}", json=body) as answer,
    ):
        return answer.status, await answer.json()


async def until_served(address: str) -> None:
    """Wait until somebody listens there."""
    while True:
        with contextlib.suppress(aiohttp.ClientConnectorError):
            await call(address, "/health")
            return
        await asyncio.sleep(0.05)


async def run(address: str, *command: str) -> str:
    """Run a command in a Pod by its own HTTP interface."""
    status, answer = await call(address, "/api/execute", {"command": list(command)})
    assert (status, answer["exit_code"]) == (200, 0), answer
    return str(answer["stdout"]).strip()


async def python(address: str, code: str) -> str:
    """Run Python in a Pod."""
    return await run(address, "python3", "-c", code)


def session_pids(world: World) -> dict[str, int]:
    return {
        one.facts.hostname: one.machine.vm.record.pid
        for one in world.engine.sessions.list()
        if one.machine is not None
    }


@pytest.mark.restarts
@pytest.mark.timeout(400)
async def test_a_pod_is_built_sealed_forked_used_adopted_and_deleted(
    root: Path, guest_image: Image
) -> None:
    kube = new_cluster()
    container = {"image": "python:3.11"}
    async with running(root, kube, guest_image, ends_sessions=False) as world:
        snapshot = world.snapshot()
        world.pod("build-1", owner=world.build_sandbox(snapshot), container=container | GATE)
        await world.until_ready("build-1")
        world.task(snapshot)
        assert (await world.until_task("Ready"))["message"] == ""
        assert world.engine.held.list() == []

        env = [{"name": "COLOUR", "value": "blue"}]
        world.pod("one", key=KEY, container=container | {"env": env})
        world.pod("two", key=KEY, container=container)
        one, two = [(await world.until_ready(name))["status"]["podIP"] for name in ("one", "two")]
        assert {s.facts.template for s in world.engine.sessions.list()} == {KEY}
        assert await call(one, "/health") == (200, {"status": "ok", "gate": "open"})
        assert await run(one, "python3", "-c", "import os; print(os.environ['COLOUR'])") == "blue"
        assert (
            await run(two, "python3", "-c", "import socket; print(socket.gethostname())") == "two"
        )
        boots = {await python(ip, BOOT_ID) for ip in (one, two)}
        assert len(boots) == 2, "two forks share no boot id"
        pids = session_pids(world)
    async with running(root, kube, guest_image) as world:
        await world.until(lambda: session_pids(world) == pids)
        await until_served(one)
        assert await run(one, "/bin/sh", "-c", "echo still here") == "still here"
        assert condition(world.get(PODS, "one"), "Ready") == "True"
        assert len(world.machines()) == 2
        for name in ("one", "two", "build-1"):
            world.kube.cluster.delete(PODS, name, namespace="team", grace_s=10)
        await world.until(lambda: not world.kube.cluster.objects(PODS))
        assert world.machines() == []


@pytest.mark.timeout(200)
async def test_a_key_of_another_namespace_boots_cold(root: Path, guest_image: Image) -> None:
    async with running(root, new_cluster(), guest_image) as world:
        world.pod("thief", key="somebody-elses-key", container={"image": "python:3.11"})
        pod = await world.until_ready("thief")
        status, health = await call(pod["status"]["podIP"], "/health")
        assert (status, health["gate"]) == (200, "open")
        await world.until(
            lambda: (
                world.get(PODS, "thief")["metadata"]["annotations"][names.STARTED_FROM]
                == names.FROM_IMAGE
            )
        )
