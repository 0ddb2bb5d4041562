"""A daemon without descriptors refuses with a reason, keeps what runs, recovers by itself."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.adapters.pressure.node import node_process
from tests.torture.census import always_open, left_open

_LIMIT = 64


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_LIMIT, _LIMIT))


@pytest.mark.timeout(120)
async def test_a_daemon_out_of_descriptors_refuses_sessions_until_one_ends(tmp_path: Path) -> None:
    async with node_process(tmp_path, before=limit) as node:
        await node.template()
        kept = await node.session()
        await node.end((await node.session())["id"])
        before = await always_open(node.process.pid)
        assert await node.fill() == "node_full"
        running = await node.ids()
        assert 3 < len(running) < _LIMIT
        assert await node.says(kept) == "here"
        assert await node.try_session() == "node_full"
        await node.end(running[-1])
        assert await node.try_session() == ""
        assert await node.says(kept) == "here"
        for session_id in set(await node.ids()) - {kept["id"]}:
            await node.end(session_id)
        assert await left_open(node.process.pid, before) == {}
