"""A daemon on full disks refuses with a reason, keeps what runs, recovers by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.units import MIB
from tests.adapters.pressure.node import NodeProcess, fill, node_process, small_disk
from tests.fakes.daemon import until


@pytest.fixture
def full_run_dir(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "run", "size=2m"):
        yield tmp_path


@pytest.fixture
def full_data_dir(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "data", "size=64m"):
        yield tmp_path


@pytest.fixture
def full_log_dir(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "logs", "size=1m"):
        yield tmp_path


async def build(node: NodeProcess, name: str) -> str:
    """Returns: the code of the error, if it failed."""
    template = await node.template(name)
    return str(template["error"]["code"]) if template["state"] == "failed" else ""


@pytest.mark.timeout(60)
async def test_a_journal_without_room_refuses_sessions_until_there_is_some(
    full_run_dir: Path,
) -> None:
    async with node_process(full_run_dir) as node:
        await node.template()
        kept = await node.session()
        ballast = fill(full_run_dir / "run")
        while not (code := await node.try_session()):  # a page of the journal may have room left
            pass
        assert code == "disk_full"
        assert await node.says(kept) == "here"
        for session_id in set(await node.ids()) - {kept["id"]}:
            await node.end(session_id)  # although the journal cannot say so
        ballast.unlink()
        assert await node.try_session() == ""
        assert await node.says(kept) == "here"


@pytest.mark.timeout(60)
async def test_a_full_data_directory_fails_builds_and_history_and_nothing_else(
    full_data_dir: Path,
) -> None:
    data = full_data_dir / "data"
    async with node_process(full_data_dir) as node:
        await node.template()
        kept = await node.session()
        ballast = fill(data, MIB // 2)
        assert await build(node, "second") == "disk_full"
        ballast.unlink()
        ballast = fill(data)
        session = await node.session()
        assert await node.says(session) == "here"
        await node.end(session["id"])

        async def is_told() -> bool:
            return node.count_logged("records.failed") > 0

        while not await is_told():  # what the history's file had room for is written still
            await node.end((await node.session())["id"])
        ballast.unlink()
        status, _ = await node.call("DELETE", "/v1/templates/second")
        assert status == 204
        assert await build(node, "second") == ""
        failed = node.count_logged("records.failed")
        await node.end((await node.session())["id"])
        assert node.count_logged("records.failed") == failed
        assert await node.says(kept) == "here"
    assert not list((data / "staging").iterdir())


@pytest.mark.timeout(60)
async def test_a_full_log_stops_nothing_and_goes_on_once_there_is_room(full_log_dir: Path) -> None:
    logs = full_log_dir / "logs"
    async with node_process(full_log_dir, log=logs / "log") as node:
        await node.template()
        ballast = fill(logs)
        log_bytes = -1
        while log_bytes != node.log.stat().st_size:  # a page of it may have room left
            log_bytes = node.log.stat().st_size
            session = await node.session()
            assert await node.says(session) == "here"
            await node.end(session["id"])
        ballast.unlink()
        await node.session()

        async def is_longer() -> bool:
            return node.log.stat().st_size > log_bytes

        await until(is_longer)
