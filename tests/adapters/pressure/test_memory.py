"""A host without memory refuses sessions with a reason and takes them once others let go of it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from agentd.units import MIB
from tests.adapters.pressure.node import NodeProcess, node_process

_BALLAST_BYTES = 1536 * MIB
_HOLD = "import mmap, sys; m = mmap.mmap(-1, int(sys.argv[1])); m.write(b'x' * len(m))"


async def take_memory() -> asyncio.subprocess.Process:
    """A process of somebody else's that has taken much of it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _HOLD + "; print(flush=True); sys.stdin.read()"),
        str(_BALLAST_BYTES),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"\n"
    return process


def available_bytes() -> int:
    return psutil.virtual_memory().available


async def is_refused_while_it_is_taken(node: NodeProcess) -> bool:
    """Whether a session was refused, and one was started once the memory was there again."""
    ballast = await take_memory()
    try:
        reserve_bytes = available_bytes() + _BALLAST_BYTES // 2
        await node.change_settings(admission={"host_reserve_bytes": reserve_bytes})
        code = await node.try_session()
        assert code in ("no_memory", "")
    finally:
        ballast.kill()
        await ballast.wait()
    return code == "no_memory" and await node.try_session() == ""


@pytest.mark.timeout(120)
async def test_a_host_low_on_memory_refuses_sessions_until_it_has_some_again(
    tmp_path: Path,
) -> None:
    if available_bytes() < 2 * _BALLAST_BYTES:
        pytest.skip(f"this host has only {available_bytes() // MIB} MiB to play with")
    async with node_process(tmp_path) as node:
        await node.template()
        kept = await node.session()
        # Others use this host too, whose memory comes and goes meanwhile.
        while not await is_refused_while_it_is_taken(node):
            pass
        assert await node.says(kept) == "here"
