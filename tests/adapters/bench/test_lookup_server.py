"""The store that decisions are measured with is a real one, on either event loop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.machine import ROOT

# A process of its own: uvloop keeps descriptors for the children of its process.
ASK = """
import asyncio, sys
from asyncio import new_event_loop as asyncio_loop
from uvloop import new_event_loop as uvloop_loop
from bench.lookup import redis_server

async def ask():
    async with redis_server() as (url, _):
        path = url.removeprefix("unix://")
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"PING\\r\\n")
        print(path, (await reader.readline()).decode().strip())
        writer.close()

with asyncio.Runner(loop_factory=globals()[sys.argv[1]]) as runner:
    runner.run(ask())
"""


@pytest.mark.parametrize("loop", ["asyncio_loop", "uvloop_loop"])
def test_a_real_server_answers_and_is_gone_afterwards(loop: str) -> None:
    argv = [sys.executable, "-c", ASK, loop]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=50, check=True)
    path, answer = done.stdout.split()
    assert answer == "+PONG"
    assert not Path(path).exists()
