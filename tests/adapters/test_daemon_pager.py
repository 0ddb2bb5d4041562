"""A daemon beside a page server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentd.monitors import make_pager_place, make_pager_watch
from agentd.pager.client import PagerClient
from agentd.wire.pager import Listen
from tests.fakes.daemon import RunningDaemon, make_settings, running_daemon, until
from tests.fakes.pager import FakePager, hand_over

REGIONS = [{"base_host_virt_addr": 1 << 32, "size": 8192, "offset": 0, "page_size": 4096}]


class Steps:
    """Collects what was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []

    def step(self, event: str, /, **details: str | int | float) -> None:
        self.told.append((event, details))

    async def has(self, event: str) -> None:
        async def check() -> bool:
            return any(event == name for name, _ in self.told)

        await until(check)


async def serve_one(pager: FakePager, root: Path, vm_id: str) -> None:
    (root / "memory").write_bytes(b"x")
    socket = str(root / f"{vm_id}.sock")
    client = PagerClient(pager.path)
    await client.listen(Listen(vm_id, socket, "firecracker", str(root / "memory"), "ab" * 32))
    await hand_over(socket, REGIONS)
    await client.wait(vm_id, deadline_s=10.0)


async def metrics_of(daemon: RunningDaemon) -> str:
    async with daemon.api.get("http://agentd/metrics") as answer:
        return await answer.text()


async def test_usage_and_metrics_say_what_the_page_server_did(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    pager, steps = FakePager(tmp_path / "run"), Steps()
    async with pager.serving():
        await serve_one(pager, tmp_path, "s-1")
        pager.facts["s-1"] = {"faults": 10, "prefetched": 30, "covered": 0.75, "max_stall_us": 9000}
        async with running_daemon(tmp_path, watchers=[steps]) as daemon:
            await steps.has("pager.counted")
            _, body = await daemon.call("GET", "/v1/usage")
            text = await metrics_of(daemon)
    (machine,) = body["pager"]["machines"]
    assert (machine["vm"], machine["faults"], machine["covered"]) == ("s-1", 10, 0.75)
    for line in (
        "snapstart_pager_up 1.0",
        "snapstart_pager_machines 1.0",
        "snapstart_pager_covered_ratio 0.75",
        "snapstart_pager_max_stall_seconds 0.009",
        "snapstart_pager_faults_total 10.0",
        'snapstart_pager_machines_served_total{method="install-before",why="a test"} 1.0',
    ):
        assert f"{line}\n" in text


async def test_without_a_page_server_nothing_is_said_of_one(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        _, body = await daemon.call("GET", "/v1/usage")
        text = await metrics_of(daemon)
    assert body["pager"] is None
    assert "snapstart_pager_up 0.0\n" in text
    assert "snapstart_pager_covered_ratio NaN\n" in text


async def test_a_page_server_that_says_nothing_keeps_usage_waiting_a_moment_only(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    pager = FakePager(tmp_path / "run")
    pager.says["stats"] = None
    async with pager.serving(), running_daemon(tmp_path) as daemon:
        status, body = await daemon.call("GET", "/v1/usage")
    assert (status, body["pager"]) == (200, None)


async def test_one_that_is_off_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    pager = FakePager(tmp_path / "run")
    off: dict[str, Any] = {"enabled": "off"}
    async with pager.serving(), running_daemon(tmp_path, pager=off) as daemon:
        _, body = await daemon.call("GET", "/v1/usage")
        text = await metrics_of(daemon)
    assert body["pager"] is None
    assert pager.requests == []
    assert "snapstart_pager_up 0.0\n" in text


async def test_the_page_server_runs_on_when_the_daemon_stops(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    steps = Steps()
    async with FakePager(tmp_path / "run").serving() as pager:
        async with running_daemon(tmp_path, watchers=[steps]):
            await steps.has("pager.found")
        assert {request["op"] for request in pager.requests} == {"stats"}
        assert (await PagerClient(pager.path).hello()).version == "9.9"


@pytest.mark.parametrize(
    ("engine", "changes", "starts"),
    [
        ("qemu", {}, False),
        ("firecracker", {}, True),
        ("cloud-hypervisor", {}, False),
        ("qemu", {"kuasar_socket": "/tmp/uffd.sock", "kuasar_dir": "/k"}, True),
    ],
    ids=["mapped files", "firecracker", "cloud hypervisor", "kuasar"],
)
def test_one_is_started_only_where_machines_need_it(
    tmp_path: Path, engine: str, changes: dict[str, str], starts: bool
) -> None:
    settings = make_settings(tmp_path, pager=changes)
    watch = make_pager_watch(settings, engine, Steps())
    assert watch is not None
    assert (watch.process is not None) is starts


def test_what_an_operator_sets_is_what_it_is_started_with(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path,
        pager={"binary": "/b", "journal_dir": "/j", "control_socket": "/c", "readers": 9},
    )
    place = make_pager_place(settings)
    assert place.argv("supervise")[:7] == [
        "/b", "supervise", "--control", "/c", "--journal", "/j", "--readers",
    ]  # fmt: skip
    assert place.readers == 9


async def test_one_that_cannot_be_started_is_told_and_ends_nothing(tmp_path: Path) -> None:
    steps = Steps()
    settings = make_settings(tmp_path, pager={"binary": str(tmp_path / "none")})
    (tmp_path / "run").mkdir()
    watch = make_pager_watch(settings, "firecracker", steps)
    assert watch is not None
    running = asyncio.create_task(watch.run())
    await steps.has("pager.start.failed")
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    watch.close()
