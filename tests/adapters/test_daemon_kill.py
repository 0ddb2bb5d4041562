"""A daemon that is killed at any step loses no running session and leaks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.fakes.daemon import make_image, running_daemon, until

ROOT = Path(__file__).parents[2]
PR_SET_CHILD_SUBREAPER = 36

# Every step of a template's build, a session's start and its end, with how often it was seen then.
BUILD = [
    "template.begun",
    "template.image.started",
    "template.boot.started",
    "machine.intended",
    "machine.running",
    "template.warm.started",
    "template.baseline.started",
    "template.verdict.started",
    "template.checkpoint.started",
    "machine.ending",
    "machine.killed",
    "machine.cleaned",
    "machine.gone",
    "template.seal.started",
    "template.ready.started",
    "template.ready",
]
# The build is the first to see some of these.
START = {"machine.intended": 3, "machine.started": 2, "machine.running": 3, "session.ready": 2}
END = ["machine.ending", "machine.killed", "machine.cleaned", "machine.gone", "session.ended"]


@pytest.fixture(autouse=True)
def inherits_orphans() -> Iterator[None]:
    """Machines of a killed daemon become our children, so that the fakes can reap them."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@asynccontextmanager
async def daemon_process(
    root: Path, step: str, count: int
) -> AsyncIterator[tuple[aiohttp.ClientSession, asyncio.subprocess.Process]]:
    """A daemon that will kill itself; it is gone when the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.daemon_process", str(root), step, str(count)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        while await process.stdout.readline() not in (b"daemon.ready\n", b""):
            pass
        drain = asyncio.create_task(process.stdout.read())
        connector = aiohttp.UnixConnector(str(root / "run/agentd.sock"))
        async with aiohttp.ClientSession(connector=connector) as api:
            yield api, process
        await asyncio.wait_for(process.wait(), 20)
        await drain
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def call(api: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    async with api.request(method, f"http://agentd{path}", json=body) as answer:
        data = await answer.read()
        return msgspec.json.decode(data) if data else None


async def build(api: aiohttp.ClientSession, image: Path) -> None:
    await call(api, "POST", "/v1/templates", {"name": "py", "image": str(image), "memory_mib": 1})

    async def is_settled() -> bool:
        return bool((await call(api, "GET", "/v1/templates/py"))["state"] != "building")

    await until(is_settled)


@pytest.mark.parametrize("step", BUILD)
async def test_killed_while_it_builds(tmp_path: Path, step: str) -> None:
    image = make_image(tmp_path / "image")
    async with daemon_process(tmp_path, step, 1) as (api, process):
        with contextlib.suppress(aiohttp.ClientError):
            await build(api, image)
        assert await process.wait() == -signal.SIGKILL
    async with running_daemon(tmp_path) as daemon:
        assert daemon.vmm.find_all() == []
        assert list((tmp_path / "run/vms").iterdir()) == []

        async def is_staging_empty() -> bool:  # but for a digest that is being written
            return not list((tmp_path / "data/staging").iterdir())

        await until(is_staging_empty)
        _, template = await daemon.call("GET", "/v1/templates/py")
        was_sealed = step in ("template.ready.started", "template.ready")
        assert template["state"] == ("ready" if was_sealed else "failed")
        if not was_sealed:
            assert template["error"]["code"] == "template_build_failed"
            assert (await daemon.call("DELETE", "/v1/templates/py"))[0] == 204
            assert (await daemon.template())["state"] == "ready"


@pytest.mark.parametrize(("step", "count"), START.items())
async def test_killed_while_a_second_session_starts(tmp_path: Path, step: str, count: int) -> None:
    """Once the journal says whose it is, the second one lives on too."""
    image = make_image(tmp_path / "image")
    async with daemon_process(tmp_path, step, count) as (api, process):
        await build(api, image)
        first = await call(api, "POST", "/v1/sessions", {"template": "py"})
        path = f"/v1/sessions/{first['id']}/execute"
        await call(api, "POST", path, {"code": "x = 1"})
        with pytest.raises(aiohttp.ClientError):
            await call(api, "POST", "/v1/sessions", {"template": "py"})
        await process.wait()
    async with running_daemon(tmp_path) as daemon:
        outcome = await daemon.run(first, "print(x)")
        assert outcome["stdout"] == "1\n"
        _, found = await daemon.call("GET", "/v1/sessions")
        ids = {session["id"] for session in found["sessions"]}
        assert ids == {record.vm_id for record in daemon.vmm.find_all()}
        assert ids == {path.name for path in (tmp_path / "run/vms").iterdir()}
        assert len(ids) == (2 if step in ("machine.running", "session.ready") else 1)
        for session_id in ids:
            await daemon.call("DELETE", f"/v1/sessions/{session_id}")
        assert daemon.vmm.find_all() == []


@pytest.mark.parametrize("step", END)
async def test_killed_while_a_session_ends(tmp_path: Path, step: str) -> None:
    image = make_image(tmp_path / "image")
    count = 1 if step == "session.ended" else 2
    async with daemon_process(tmp_path, step, count) as (api, process):
        await build(api, image)
        first = await call(api, "POST", "/v1/sessions", {"template": "py"})
        other = await call(api, "POST", "/v1/sessions", {"template": "py"})
        with pytest.raises(aiohttp.ClientError):
            await call(api, "DELETE", f"/v1/sessions/{first['id']}")
        await process.wait()
    async with running_daemon(tmp_path) as daemon:
        _, found = await daemon.call("GET", "/v1/sessions")
        assert [session["id"] for session in found["sessions"]] == [other["id"]]
        assert [record.vm_id for record in daemon.vmm.find_all()] == [other["id"]]
        assert [path.name for path in (tmp_path / "run/vms").iterdir()] == [other["id"]]
        assert (await daemon.run(other, "print(2)"))["stdout"] == "2\n"
        await daemon.call("DELETE", f"/v1/sessions/{other['id']}")


async def test_killed_between_the_start_of_a_process_and_its_first_look(tmp_path: Path) -> None:
    """The sweep a moment later finds a machine that did not look like one at the start."""
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        late = tmp_path / "run/vms/s-late"
        late.mkdir()
        vm = daemon.vmm._spawn("s-late", late, b"")
        assert vm.record in daemon.vmm.find_all()
        assert await vm.wait() == "the process ended"
        os.stat(tmp_path / "run/journal")
