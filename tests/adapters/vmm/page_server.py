"""The real page server, for drivers whose machines it serves."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from agentd.pager.client import PagerClient
from agentd.pager.places import own_binary


def why_not() -> str:
    """Why the real page server cannot be tried here."""
    if not own_binary().exists():
        return "snap-pager is not built: `make native`"
    return "" if os.geteuid() == 0 else "userfaultfd needs root here"


class PageServer:
    """snap-pager, killed and begun again at will; its journal is on a tmpfs. command: serve, or
    supervise.
    """

    def __init__(self, root: Path, command: str = "serve") -> None:
        self.control = root / "pager.sock"
        self._journal = Path(tempfile.mkdtemp(prefix="fc-pager-", dir="/dev/shm"))
        self._log = root / "pager.log"
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        argv = ["--control", str(self.control), "--journal", str(self._journal)]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                own_binary(), self._command, *argv, stderr=log
            )
        await PagerClient(self.control).hello()

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def __aenter__(self) -> PageServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        shutil.rmtree(self._journal)
