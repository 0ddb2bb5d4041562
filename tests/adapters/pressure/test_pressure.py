"""A node that runs out of something says so, goes on, and recovers by itself."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.pressure.node import small_disk
from tests.fakes.daemon import RunningDaemon, running_daemon, until


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


async def test_a_start_that_would_miss_its_deadline_is_refused_at_once(tmp_path: Path) -> None:
    """While all turns are taken; when one is free, it may try."""
    async with running_daemon(tmp_path, admission={"concurrent_forks": 1}) as daemon:
        await daemon.template()
        daemon.vmm.delay_s = 1.0
        await daemon.session()  # from which it learns how long they take
        daemon.vmm.goes_on.clear()
        others = [asyncio.create_task(daemon.session()) for _ in range(3)]

        async def are_listed() -> bool:
            _, found = await daemon.call("GET", "/v1/sessions")
            return len(found["sessions"]) == 4

        await until(are_listed)
        hasty = {"template": "py", "deadline_s": 1.5}
        status, body = await daemon.call("POST", "/v1/sessions", hasty)
        assert (status, body["error"]["code"]) == (503, "node_full"), body
        assert "all turns are taken, 2 starts wait; it would take" in body["error"]["message"]
        daemon.vmm.goes_on.set()
        await asyncio.gather(*others)
        daemon.vmm.delay_s = 0.0
        status, body = await daemon.call("POST", "/v1/sessions", {**hasty, "deadline_s": 30.0})
        assert status == 201, body
        await end_all(daemon)


@pytest.fixture
def full_run_dir(tmp_path: Path) -> Iterator[Path]:
    """A root whose run directory is a file system for few files."""
    with small_disk(tmp_path / "run", "size=4m,nr_inodes=64"):
        yield tmp_path


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
