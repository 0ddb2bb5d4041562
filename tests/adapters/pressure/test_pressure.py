"""A node that runs out of something says so, goes on, and recovers by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.daemon import RunningDaemon, running_daemon, until


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """This process may open so many more, for as long as the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def end_all(daemon: RunningDaemon) -> None:
    _, found = await daemon.call("GET", "/v1/sessions")
    for session in found["sessions"]:
        await daemon.call("DELETE", f"/v1/sessions/{session['id']}")


@pytest.mark.timeout(120)
async def test_a_thousand_requests_at_once_get_a_session_or_a_reason(tmp_path: Path) -> None:
    admission = {"queued_forks": 8, "concurrent_forks": 2, "max_sessions": 6}
    async with running_daemon(tmp_path, admission=admission, deadlines={"fork_s": 90}) as daemon:
        await daemon.template()
        assert daemon.api.connector is not None
        daemon.api.connector._limit = 0  # every request has a connection of its own
        asked = (daemon.call("POST", "/v1/sessions", {"template": "py"}) for _ in range(1000))
        answers = await asyncio.gather(*asked)
        seen = Counter((status, (body.get("error") or {}).get("code")) for status, body in answers)
        assert set(seen) == {(201, None), (503, "node_full")}, seen
        assert 1 <= seen[201, None] <= 6
        for _, body in answers:
            assert "error" not in body or body["error"]["hint"]
        await end_all(daemon)
        await daemon.session()
        await end_all(daemon)
        assert daemon.vmm.find_all() == []


@pytest.mark.parametrize("spare", [3, 6, 9, 12])
async def test_without_descriptors_a_session_is_refused_and_later_not(
    tmp_path: Path, spare: int
) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        kept = await daemon.session()
        assert (await daemon.run(kept, "x = 1"))["status"] == "ok"
        with few_descriptors(spare):
            status, body = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        if status != 201:
            assert body["error"]["code"] in {"node_full", "no_memory", "internal", "vmm_failed"}, (
                body
            )
        assert (await daemon.run(kept, "print(x)"))["stdout"] == "1\n"
        await daemon.session()
        await end_all(daemon)
        assert daemon.vmm.find_all() == []


@pytest.fixture
def full_run_dir(tmp_path: Path) -> Iterator[Path]:
    """A root whose run directory is a file system for few files."""
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=4m,nr_inodes=64,mode=700",
        "snapstart-test",
        str(run),
    ]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, timeout=30).returncode != 0:
        pytest.skip("only root can mount a small filesystem")
    yield tmp_path
    subprocess.run(["umount", str(run)], check=True, timeout=30)


async def test_a_full_run_directory_refuses_sessions_until_there_is_room(
    full_run_dir: Path,
) -> None:
    async with running_daemon(full_run_dir) as daemon:
        await daemon.template()
        kept = await daemon.session()
        ballast = full_run_dir / "run/ballast"
        ballast.mkdir()
        with contextlib.suppress(OSError):
            for number in range(64):
                (ballast / str(number)).touch()
        status, body = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        assert (status, body["error"]["code"]) == (507, "disk_full"), body
        assert (await daemon.run(kept, "print(1)"))["stdout"] == "1\n"
        shutil.rmtree(ballast)
        await daemon.session()
        await end_all(daemon)

        async def is_empty() -> bool:
            return not list((full_run_dir / "run/vms").iterdir())

        await until(is_empty)
