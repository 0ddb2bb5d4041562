"""The stand-in is what the real program is, as far as the driver can see."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentd.vmm.cloud_hypervisor_explain import parse_last_event
from tests.fakes.cloud_hypervisor import StandIn, build_launcher
from tests.fakes.cloud_hypervisor_answers import differences, wait_until_served


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_launcher(tmp_path_factory.mktemp("launcher"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "kernel").write_text("kernel")
    return tmp_path


@asynccontextmanager
async def running(program: Path, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        program, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("version", ["v48.0", "v51.0", "v53.0", "v54.0"])
async def test_it_answers_as_the_real_one_does(
    launcher: Path, directory: Path, version: str
) -> None:
    stand_in = StandIn(launcher, directory / "bin", version)
    socket = directory / "api.sock"
    async with running(stand_in.binary, "--api-socket", f"path={socket}") as process:
        assert await differences(socket, directory) == []
        assert await process.wait() == 0, "vmm.shutdown ends it"


def test_it_says_which_version_it_is(launcher: Path, directory: Path) -> None:
    stand_in = StandIn(launcher, directory / "bin", "v53.0-12-gabc")
    done = subprocess.run([stand_in.binary, "--version"], capture_output=True, check=True)
    assert done.stdout == b"cloud-hypervisor v53.0-12-gabc\n"


def test_an_option_that_is_none_is_refused(launcher: Path, directory: Path) -> None:
    stand_in = StandIn(launcher, directory / "bin")
    done = subprocess.run([stand_in.binary, "-name", "x"], capture_output=True, check=False)
    assert done.returncode != 0
    assert b"unexpected argument '-name'" in done.stderr


async def test_a_socket_that_is_served_is_not_taken_since_v53(
    launcher: Path, directory: Path
) -> None:
    words = "--api-socket", f"path={directory / 'api.sock'}"
    stand_in = StandIn(launcher, directory / "bin", "v53.0")
    async with running(stand_in.binary, *words):
        await asyncio.to_thread(wait_until_served, directory / "api.sock")
        assert (directory / "api.sock.lock").exists()
        async with running(stand_in.binary, *words) as second:
            output, _ = await asyncio.wait_for(second.communicate(), 20)
            assert second.returncode != 0
            assert b"already in use" in output
    async with running(stand_in.binary, *words):  # one that was killed left both files
        assert await differences(directory / "api.sock", directory) == []


async def test_a_socket_that_is_left_is_in_the_way_before_v53(
    launcher: Path, directory: Path
) -> None:
    words = "--api-socket", f"path={directory / 'api.sock'}"
    stand_in = StandIn(launcher, directory / "bin", "v52.0")
    async with running(stand_in.binary, *words):
        await asyncio.to_thread(wait_until_served, directory / "api.sock")
    assert not (directory / "api.sock.lock").exists()
    async with running(stand_in.binary, *words) as second:
        assert await asyncio.wait_for(second.wait(), 20) != 0


async def test_its_events_are_objects_of_several_lines(launcher: Path, directory: Path) -> None:
    stand_in = StandIn(launcher, directory / "bin")
    socket, events = directory / "api.sock", directory / "events"
    words = "--api-socket", f"path={socket}", "--event-monitor", f"path={events}"
    async with running(stand_in.binary, *words):
        await differences(socket, directory)
    parts = [json.loads(part) for part in events.read_text().strip().split("\n\n")]
    assert [part["event"] for part in parts][:2] == ["starting", "booting"]
    assert parts[0]["source"] == "vmm"
    assert parse_last_event(events.read_text()) == "vmm shutdown"
