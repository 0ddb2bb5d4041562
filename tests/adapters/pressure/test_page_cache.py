"""A host that took its page cache back makes the next load slower, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agentd.store import files
from tests.adapters.pressure.node import node_process


async def test_a_template_that_left_the_page_cache_is_read_from_the_disk(tmp_path: Path) -> None:
    async with node_process(tmp_path) as node:
        await node.template()
        await node.session()
        digest = tmp_path / "data/templates/py" / files.DIGEST
        while not digest.exists():  # noqa: ASYNC110 - the other side is a process
            await asyncio.sleep(0.05)
    with (tmp_path / "data/templates/py" / files.MEMORY).open("rb") as memory:
        files.drop_cache(memory.fileno())
    log = tmp_path / "second.log"
    async with node_process(tmp_path, log=log) as node:
        assert await node.says(await node.session()) == "here"
    (loaded,) = [line for line in log.read_text().splitlines() if "'template.loaded'" in line]
    assert "source='disk'" in loaded
