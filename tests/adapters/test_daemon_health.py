"""What a daemon says of its own health, while its parts break and are mended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest

from agentd.errors import ConfigError
from agentd.health import Health, PartState
from agentd.http.observed import make_health
from tests.fakes.daemon import RunningDaemon, running_daemon
from tests.kube import ports

ROOT = Path(__file__).parents[2]
REFUSE = ROOT / "tests/fakes/refuse_call.py"


async def parts(daemon: RunningDaemon, status: int) -> dict[str, Any]:
    found, body = await daemon.call("GET", "/readyz")
    assert found == status, body
    assert body["status"] == ("ready" if status == 200 else "not_ready")
    return dict(body["parts"])


async def test_a_daemon_that_can_work_is_ready(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        said = await parts(daemon, 200)
        assert set(said) == {"journal", "monitor", "page_server"}
        assert all(part["ready"] and part["detail"] for part in said.values())
        assert (await daemon.call("GET", "/healthz"))[0] == 200


async def test_a_journal_that_somebody_took_away_is_told_until_it_is_back(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        journal = tmp_path / "run/journal"
        journal.rename(tmp_path / "run/elsewhere")
        said = await parts(daemon, 503)
        assert "No such file" in said["journal"]["detail"]
        journal.write_text("")
        assert "another file" in (await parts(daemon, 503))["journal"]["detail"]
        assert (await daemon.call("GET", "/healthz"))[0] == 200
        (tmp_path / "run/elsewhere").rename(journal)
        assert (await parts(daemon, 200))["journal"]["ready"]


async def test_a_monitor_that_goes_is_told_until_it_is_back(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.vmm.faults.add("gone")
        said = await parts(daemon, 503)
        assert "it is gone" in said["monitor"]["detail"]
        metrics = await (await daemon.api.get("http://d/metrics")).text()
        assert 'snapstart_part_ready{part="monitor"} 0.0' in metrics
        assert 'snapstart_part_ready{part="journal"} 1.0' in metrics
        daemon.vmm.faults.remove("gone")
        assert (await parts(daemon, 200))["monitor"]["ready"]


async def test_health_is_served_by_tcp_only_when_asked_for_and_nothing_else(tmp_path: Path) -> None:
    (port,) = ports.choose(1)
    async with (
        running_daemon(tmp_path, http={"host": "127.0.0.1", "port": port}),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        for path, status in (
            ("/healthz", 200), ("/readyz", 200), ("/metrics", 200),
            ("/v1/sessions", 404), ("/v1/status", 404), ("/openapi.json", 404),
        ):  # fmt: skip
            async with session.get(path) as reply:
                assert reply.status == status, path


async def test_a_port_that_is_taken_is_named() -> None:
    (port,) = ports.choose(1)
    http = {"host": "127.0.0.1", "port": port}
    # Directories of short names: sockets lie in them.
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        async with running_daemon(Path(one), http=http):
            with pytest.raises(ConfigError, match=f"http.port {port}"):
                async with running_daemon(Path(other), http=http):
                    raise AssertionError("it listens where somebody else does")


BEGIN = """
import asyncio, pathlib, sys
from tests.fakes.daemon import running_daemon

async def main():
    async with running_daemon(pathlib.Path(sys.argv[1]), http={"port": int(sys.argv[2])}):
        pass

asyncio.run(main())
"""


def test_a_port_that_the_unit_keeps_shut_is_not_taken_for_open(tmp_path: Path) -> None:
    """Event loops pass over address families that the kernel refuses, down to none."""
    (port,) = ports.choose(1)
    words = [sys.executable, "-I", str(REFUSE), "inet", sys.executable, "-c", BEGIN]
    done = subprocess.run(
        [*words, str(tmp_path), str(port)],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert f"http.port {port}: no address could be opened" in done.stderr
    assert "agentd-http.conf" in done.stderr


class Anything:
    """Stands for an engine and a page server's watch of which only some words matter."""

    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(facts)


def page_server(watch: Any) -> PartState:
    engine: Any = Anything(journal_problem=lambda: "", check_monitor=lambda: None)
    return make_health(SETTINGS, engine, watch, "qemu").states()["page_server"]


SETTINGS: Any = Anything(node=Anything(enabled=False))


def test_a_page_server_counts_only_where_machines_need_one() -> None:
    assert page_server(None).is_ready
    assert page_server(Anything(process=None, latest=None, is_missed=False)).is_ready
    assert not page_server(Anything(process=1, latest=None, is_missed=False)).is_ready
    assert page_server(Anything(process=1, latest=2, is_missed=False)).is_ready


def test_a_page_server_that_machines_wait_for_counts_though_others_need_none() -> None:
    assert not page_server(Anything(process=None, latest=None, is_missed=True)).is_ready


def test_a_node_without_a_monitor_by_design_is_ready() -> None:
    engine: Any = Anything(journal_problem=lambda: "", check_monitor=None)
    state = make_health(SETTINGS, engine, None, "none").states()["monitor"]
    assert state.is_ready
    assert "by design" in state.detail


def test_a_node_of_a_cluster_is_not_ready_before_its_cluster_saw_it() -> None:
    settings: Any = Anything(node=Anything(enabled=True), kuasar=Anything(enabled=False))
    engine: Any = Anything(journal_problem=lambda: "", check_monitor=lambda: None)
    states = make_health(settings, engine, None, "qemu").states()
    assert not states["cluster"].is_ready
    assert "sandboxer" not in states


def test_a_node_of_a_sandboxer_is_not_ready_before_that_was_asked() -> None:
    settings: Any = Anything(node=Anything(enabled=True), kuasar=Anything(enabled=True))
    engine: Any = Anything(journal_problem=lambda: "", check_monitor=None)
    assert not make_health(settings, engine, None, "none").states()["sandboxer"].is_ready


def test_a_part_that_cannot_be_looked_at_is_not_ready() -> None:
    health = Health()

    def look() -> PartState:
        raise OSError("broken")

    health.add("part", look)
    assert not health.states()["part"].is_ready
    assert health.values() == {"part": 0.0}
