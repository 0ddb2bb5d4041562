"""A daemon that may make no more processes refuses with a reason and recovers by itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.pressure.node import node_process

_PARENTS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))  # version 1, version 2


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group in which tasks can be limited (pids.max)."""
    for parent in _PARENTS:
        path = parent / f"snapstart-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            if (path / "pids.max").exists():
                yield path
                return
        finally:
            path.rmdir()
    pytest.skip("no control group of ours can limit tasks here")


def tasks_of(group: Path) -> int:
    return int((group / "pids.current").read_text())


@pytest.mark.timeout(120)
async def test_a_daemon_out_of_tasks_refuses_sessions_until_there_are_some(
    tmp_path: Path, group: Path
) -> None:
    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    async with node_process(tmp_path, before=join) as node:
        await node.template()
        kept = await node.session()
        (group / "pids.max").write_text(str(tasks_of(group)))
        assert {await node.try_session() for _ in range(2)} == {"node_full"}
        codes = await asyncio.gather(*(node.try_session() for _ in range(24)))
        assert set(codes) == {"node_full"}
        assert await node.says(kept) == "here"
        (group / "pids.max").write_text("max")
        assert await node.try_session() == ""
        assert await node.says(kept) == "here"
