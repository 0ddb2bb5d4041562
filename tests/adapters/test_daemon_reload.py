"""A daemon takes settings over while it serves, on fake machines."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from tests.fakes.daemon import RunningDaemon, make_settings, running_daemon, until


@dataclass
class Steps:
    """What the daemon reported."""

    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self, event: str, /, **details: str | int | float) -> None:
        self.seen.append((event, details))
        self.changed.set()

    async def until(self, wanted: str) -> dict[str, Any]:
        while True:
            self.changed.clear()
            for event, details in self.seen:
                if event == wanted:
                    return details
            await self.changed.wait()


@asynccontextmanager
async def reloading(tmp_path: Path, **changes: Any) -> AsyncIterator[tuple[RunningDaemon, Steps]]:
    steps = Steps()
    async with running_daemon(tmp_path, (steps,), **changes) as daemon:
        yield daemon, steps


async def test_a_limit_is_taken_over_by_a_reload(tmp_path: Path) -> None:
    async with reloading(tmp_path, admission={"max_sessions": 1}) as (daemon, steps):
        await daemon.template()
        await daemon.session()
        status, _ = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        assert status == 503
        make_settings(tmp_path, admission={"max_sessions": 2}, lifetime={"default_ttl_s": 77.0})
        daemon.reload.set()
        told = await steps.until("daemon.reloaded")
        assert told["changed"].split() == ["admission.max_sessions", "lifetime.default_ttl_s"]
        session = await daemon.session()
        created, expires = map(
            datetime.fromisoformat, (session["created_at"], session["expires_at"])
        )
        assert 76 < (expires - created).total_seconds() < 78
        await end_all(daemon)


async def test_what_needs_a_restart_is_named_and_does_not_change(tmp_path: Path) -> None:
    async with reloading(tmp_path) as (daemon, steps):
        make_settings(tmp_path, api={"socket_mode": "0600", "max_body_bytes": 1})
        daemon.reload.set()
        told = await steps.until("daemon.reload.needs_restart")
        assert told["keys"].split() == ["api.socket_mode", "api.max_body_bytes"]
        assert daemon.settings.socket.stat().st_mode & 0o777 == 0o660
        assert (await daemon.call("GET", "/v1/templates"))[0] == 200


async def test_a_file_that_cannot_be_used_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async with reloading(tmp_path, admission={"max_sessions": 1}) as (daemon, steps):
        (tmp_path / "agentd.toml").write_text("[admission]\nmax_sessions = 5\nmax_sesions = 6\n")
        daemon.reload.set()
        told = await steps.until("daemon.reload.failed")
        assert "max_sesions" in told["error"]
        assert "agentd.toml" in told["error"]
        await daemon.template()
        await daemon.session()
        assert (await daemon.call("POST", "/v1/sessions", {"template": "py"}))[0] == 503
        make_settings(tmp_path, admission={"max_sessions": 2})
        daemon.reload.set()
        await steps.until("daemon.reloaded")
        await daemon.session()
        await end_all(daemon)


async def test_forks_are_parked_from_the_reload_on_that_asks_for_them(tmp_path: Path) -> None:
    async with reloading(tmp_path) as (daemon, steps):
        await daemon.template()
        make_settings(tmp_path, warm={"count": 1})
        daemon.reload.set()
        await steps.until("parking.parked")
        make_settings(tmp_path)
        steps.seen.clear()
        daemon.reload.set()
        await steps.until("daemon.reloaded")

        async def none_is_left() -> bool:
            return not list((tmp_path / "run/vms").iterdir())

        await until(none_is_left)


async def test_the_log_changes_its_level_and_form(tmp_path: Path) -> None:
    async with reloading(tmp_path, log={"level": "info"}) as (daemon, steps):
        assert not is_logged("debug")
        make_settings(tmp_path, log={"level": "debug", "format": "json"})
        daemon.reload.set()
        await steps.until("daemon.reloaded")
        assert is_logged("debug")
        renderer = structlog.get_config()["processors"][-1]
        assert isinstance(renderer, structlog.processors.JSONRenderer)


def is_logged(level: str) -> bool:
    return bool(structlog.get_logger().bind().is_enabled_for({"debug": 10, "info": 20}[level]))


async def test_the_manager_hears_of_both_ends_of_a_reload(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.setblocking(False)
        steps = Steps()
        environ = {"NOTIFY_SOCKET": str(address)}
        async with running_daemon(tmp_path, (steps,), environ=environ) as daemon:
            await said(manager, lambda words: words[0] == "READY=1")
            (tmp_path / "agentd.toml").write_text("[nonsense]\n")
            daemon.reload.set()
            words = await said(manager, lambda words: words[0] == "RELOADING=1")
            name, _, value = words[1].partition("=")
            assert (name, value.isdecimal()) == ("MONOTONIC_USEC", True)
            await said(manager, lambda words: words[0] == "READY=1")


async def said(manager: socket.socket, is_wanted: Callable[[list[str]], bool]) -> list[str]:
    loop = asyncio.get_running_loop()
    while True:
        words = (await loop.sock_recv(manager, 4096)).decode().splitlines()
        if is_wanted(words):
            return words


async def test_sighup_reloads_and_ends_nobody(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.daemon_process", str(tmp_path), "", "0"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        await line(process.stdout, b"daemon.ready")
        make_settings(tmp_path, log={"level": "error"})
        process.send_signal(1)
        await line(process.stdout, b"daemon.reloaded")
        assert process.returncode is None
    finally:
        process.terminate()
        assert await process.wait() == 0


async def line(stream: asyncio.StreamReader, wanted: bytes) -> None:
    async for said in stream:
        if said.strip() == wanted:
            return
    raise AssertionError(f"it ended without {wanted!r}")


async def end_all(daemon: RunningDaemon) -> None:
    for session in (await daemon.call("GET", "/v1/sessions"))[1]["sessions"]:
        await daemon.call("DELETE", f"/v1/sessions/{session['id']}")
