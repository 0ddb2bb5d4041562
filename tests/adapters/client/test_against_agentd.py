"""Both clients and snapctl against agentd itself, on fake machines."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentd.cli.snapctl import snapctl
from agentd.client import AsyncSandbox, Sandbox
from agentd.errors import ErrorCode, SnapStartError
from tests.fakes.daemon import running_daemon


async def test_the_blocking_client_works_with_agentd(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        socket = daemon.settings.socket

        def work() -> None:
            with Sandbox.create("py", socket=socket, metadata={"a": "b"}) as sbx:
                done = sbx.run_code("1 + 1")
                assert done.status
                assert sbx.get_info().metadata == {"a": "b"}
                assert [one.id for one in Sandbox.list(socket=socket)] == [sbx.sandbox_id]
            with pytest.raises(SnapStartError) as info:
                Sandbox.create("none", socket=socket)
            assert info.value.code is ErrorCode.TEMPLATE_NOT_FOUND

        await asyncio.to_thread(work)


async def test_the_async_client_works_with_agentd(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        async with await AsyncSandbox.create("py", socket=daemon.settings.socket) as sbx:
            assert (await sbx.run_code("1 + 1")).status
            assert await sbx.is_running()


async def test_snapctl_works_with_agentd(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        socket = str(daemon.settings.socket)

        def snap(*args: str) -> dict[str, object]:
            done = CliRunner().invoke(snapctl, [*args, "--json", "--socket", socket])
            assert done.exit_code == 0, done.output
            found: dict[str, object] = json.loads(done.stdout)
            return found

        def work() -> None:
            image = str(daemon.image)
            made = snap("template", "create", "py", "--image", image, "--memory-mib", "1")
            assert made["state"] == "ready"
            session = str(snap("session", "create", "py")["id"])
            assert snap("session", "exec", session, "1 + 1")["status"]
            assert snap("top")["sessions"]
            assert len(snap("fork", "py", "-n", "2")["forks"]) == 2  # type: ignore[arg-type]
            snap("session", "rm", session)
            snap("template", "rm", "py")

        await asyncio.to_thread(work)
