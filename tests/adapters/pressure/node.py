"""Run a daemon on fake machines as a process of its own, which alone is short of something."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from agentd.errors import ErrorCode
from tests.fakes.daemon import RunningDaemon, make_image, make_settings, until
from tests.fakes.vmm import FakeVmm

_ROOT = Path(__file__).parents[3]


@dataclass
class NodeProcess(RunningDaemon):
    """The same calls, to another process. log: its standard error."""

    process: asyncio.subprocess.Process
    log: Path

    async def try_session(self) -> str:
        """Ask for one: the code of the error, or nothing."""
        status, body = await self.call("POST", "/v1/sessions", {"template": "py"})
        if status == 201:
            return ""
        code = str(body["error"]["code"])
        assert status == ErrorCode(code).http_status, body
        assert body["error"]["hint"], body
        return code

    async def fill(self) -> str:
        """Start sessions until one is refused: the code of the error."""
        while not (code := await self.try_session()):
            pass
        return code

    async def says(self, session: dict[str, Any]) -> str:
        """What a session prints that has not been harmed: `here`."""
        return str((await self.run(session, "print('here')"))["stdout"]).strip()

    async def ids(self) -> list[str]:
        """The sessions that run."""
        _, found = await self.call("GET", "/v1/sessions")
        return [one["id"] for one in found["sessions"] if one["state"] != "ended"]

    async def end(self, session_id: str) -> None:
        """End one session."""
        status, body = await self.call("DELETE", f"/v1/sessions/{session_id}")
        assert status == 204, body

    async def end_all(self) -> None:
        """End every session; nothing of them is left."""
        for session_id in await self.ids():
            await self.end(session_id)

        async def is_empty() -> bool:
            return not list((self.settings.run_dir / "vms").iterdir())

        await until(is_empty)
        assert self.vmm.find_all() == []

    async def change_settings(self, **changes: Any) -> None:
        """Have it take over changed ones."""
        make_settings(self.settings.data_dir.parent, **{"log": {"level": "info"}, **changes})
        before = self.count_logged("daemon.reloaded")
        self.process.send_signal(signal.SIGHUP)

        async def is_done() -> bool:
            return self.count_logged("daemon.reloaded") > before

        await until(is_done)

    def count_logged(self, event: str) -> int:
        """How often an event is in its log."""
        return self.log.read_text(errors="replace").count(f"event='{event}'")


@asynccontextmanager
async def node_process(
    root: Path,
    *,
    environ: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    log: Path | None = None,
    **changes: Any,
) -> AsyncIterator[NodeProcess]:
    """Ended with the block, with every session. before: called in the process, before it is ours.

    log: where its standard error goes. changes: of settings.
    """
    settings = make_settings(root, **{"log": {"level": "info"}, **changes})
    image = root / "image"
    if not image.exists():
        make_image(image)
    log = log or root / "log"
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.fakes.daemon_process", str(root), "", "0"),
            cwd=_ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(environ or {})},
            preexec_fn=before,
        )
    try:
        drain = await _ready(process)
        installation = (settings.data_dir / "installation-id").read_text().strip()
        vmm = FakeVmm(installation, settings.run_dir / "vms")
        # Each call has a connection of its own, as those of `snapctl`.
        connector = aiohttp.UnixConnector(str(settings.socket), force_close=True, limit=0)
        events = asyncio.Event(), asyncio.Event()
        async with aiohttp.ClientSession(connector=connector) as api:
            node = NodeProcess(api, vmm, settings, image, *events, process, log)
            yield node
            await node.end_all()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
        await drain
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        _end_machines(settings.data_dir / "installation-id")


def _end_machines(installation: Path) -> None:
    """Those of a test that failed."""
    if installation.exists():
        marker = f"fake-vm:{installation.read_text().strip()}:"
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(word.startswith(marker) for word in one.cmdline()):
                    one.kill()


async def _ready(process: asyncio.subprocess.Process) -> asyncio.Task[bytes]:
    """Wait until it serves. Returns: what reads its further steps."""
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if line == b"daemon.ready\n":
            return asyncio.create_task(process.stdout.read())
    raise AssertionError("the daemon ended before it served")


@contextmanager
def small_disk(path: Path, options: str) -> Iterator[Path]:
    """A file system of its own there. options: of tmpfs(5)."""
    path.mkdir(mode=0o700)
    words = ["mount", "-t", "tmpfs", "-o", f"{options},mode=700", "snapstart-test", str(path)]
    if os.geteuid() != 0 or subprocess.run(words, check=False, timeout=30).returncode != 0:
        pytest.skip("only root can mount a small filesystem")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=30)


def fill(directory: Path, keep_bytes: int = 0) -> Path:
    """Leave that much room. Returns: what takes the rest."""
    ballast = directory / "ballast"
    space = os.statvfs(directory)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - keep_bytes)
    return ballast
