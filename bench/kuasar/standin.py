"""Serve the stand-in sandboxer in both forms, as a process of its own, until it is told to end.

usage: python -m bench.kuasar.standin DIRECTORY; says "ready" once it serves, ends with its
standard input. The sockets of each form are in a directory of the form's name.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from agentd.kuasar.client import Form
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kuasar.sandboxer import Config, Sandbox, Sandboxer

KEY = "python-ready-{:08x}-fork-g1-r1"
PODS = 16
TEMPLATES = 48
# As long as a small guest takes; what is measured is what others add to it.
_CREATE_S = 1.0
_PLENTY = 1_000_000


async def fill(sandboxer: Sandboxer) -> None:
    """Pods, templates of the first of them, snapshots that take their time from now on."""
    pods = [sandboxer.run(f"uid-{number}") for number in range(PODS)]
    for number in range(TEMPLATES):
        await sandboxer.create_fork(pods[0], KEY.format(number))

    async def pausing(_sandbox: Sandbox) -> None:
        await asyncio.sleep(_CREATE_S)

    sandboxer.pausing = pausing


async def serve(directory: Path) -> None:
    """Until the end of standard input."""
    async with AsyncExitStack() as stack:
        for form in Form:
            place = directory / form.name.lower()
            place.mkdir()
            config = Config(gc_watermark=_PLENTY, max_per_key=_PLENTY)
            node = await stack.enter_async_context(KuasarNode(place, form, config))
            await fill(node.sandboxer)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
