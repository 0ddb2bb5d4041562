"""A daemon on fake machines as a process, which may kill itself at a step.

Run as `python -m tests.fakes.daemon_process ROOT STEP COUNT`: SIGKILL at the COUNTth step named
STEP; an empty STEP never. Settings are those of ROOT/agentd.toml; where there is none it is made.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from agentd import native
from agentd.daemon import Parts, serve
from agentd.settings import load_settings
from tests.fakes.daemon import make_settings
from tests.fakes.vmm import FakeVmm


class Killer:
    """Ends the process at a step."""

    def __init__(self, step: str, count: int) -> None:
        self._step = step
        self._left = count

    def step(self, event: str, /, **_details: str | int | float) -> None:
        print(event, flush=True)
        if event == self._step:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


async def main(root: Path, step: str, count: int) -> None:
    """Serve until killed."""
    if not (root / "agentd.toml").exists():
        make_settings(root, log={"level": "warning"})
    parts = Parts(
        load_settings(root / "agentd.toml", {}),
        {},
        lambda made, installation: FakeVmm(installation, made.run_dir / "vms"),
        native.copy_memory,
        (Killer(step, count),),
        load=lambda: load_settings(root / "agentd.toml", {}),
        reload_on=(signal.SIGHUP,),
    )
    await serve(parts)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
