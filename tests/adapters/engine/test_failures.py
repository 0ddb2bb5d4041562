"""What can go wrong on a node, seen through its API: each failure stays with its object."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from agentd.engine import engine as engine_module
from agentd.engine import parking as parking_module
from agentd.engine import sessions as sessions_module
from agentd.errors import ErrorCode, TransientError
from agentd.store.templates import TemplateStore
from agentd.vmm.vmm import VmRecord
from tests.fakes.daemon import RunningDaemon, running_daemon, until
from tests.fakes.vmm import FakeVmm


@asynccontextmanager
async def node(root: Path, **changes: Any) -> AsyncIterator[RunningDaemon]:
    """A daemon with a template; its sessions are ended at the end."""
    async with running_daemon(root, **changes) as daemon:
        await daemon.template()
        yield daemon
        for session in (await daemon.call("GET", "/v1/sessions"))[1]["sessions"]:
            await daemon.call("DELETE", f"/v1/sessions/{session['id']}")


def machines(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "run/vms").iterdir())


async def has_parked(daemon: RunningDaemon, count: int) -> None:
    async def check() -> bool:
        return bool((await daemon.call("GET", "/v1/status"))[1]["limits"]["parked"] == count)

    await until(check)


# -- sessions -----------------------------------------------------------------------------------


async def test_the_death_of_a_machine_is_noticed_though_nobody_asks(tmp_path: Path) -> None:
    async with node(tmp_path) as daemon:
        session = await daemon.session()
        os.kill(session["pid"], signal.SIGKILL)
        assert (await daemon.ended(session))["ended_reason"].startswith("vm_died: ")
        assert machines(tmp_path) == []


async def test_a_guest_that_babbles_loses_its_session_alone(tmp_path: Path) -> None:
    async with node(tmp_path) as daemon:
        victim, other = await daemon.session(), await daemon.session()
        path = f"/v1/sessions/{victim['id']}/execute"
        status, _ = await daemon.call("POST", path, {"code": "guest.write(b'x' * 100)"})
        assert status in (410, 502)
        assert (await daemon.ended(victim))["ended_reason"].startswith("guest_broken")
        assert (await daemon.run(other, "print(1)"))["stdout"] == "1\n"


async def test_a_session_that_is_starting_can_neither_be_used_nor_ended(tmp_path: Path) -> None:
    async with node(tmp_path) as daemon:
        daemon.vmm.goes_on.clear()
        creating = asyncio.create_task(daemon.session())

        async def is_listed() -> bool:
            return bool((await daemon.call("GET", "/v1/sessions"))[1]["sessions"])

        await until(is_listed)
        (session,) = (await daemon.call("GET", "/v1/sessions"))[1]["sessions"]
        assert (session["state"], session["pid"]) == ("starting", 0)
        for method, rest in (("DELETE", ""), ("GET", "/entries")):
            status, body = await daemon.call(method, f"/v1/sessions/{session['id']}{rest}")
            assert (status, body["error"]["code"]) == (400, "request_invalid")
        assert (await daemon.call("GET", "/v1/usage"))[1]["usage"] == []
        daemon.vmm.goes_on.set()
        assert (await creating)["id"] == session["id"]


async def test_a_daemon_that_stops_gives_up_sessions_that_start(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, stop={"requests_s": 0.2}) as daemon:
        await daemon.template()
        daemon.vmm.delay_s = 30.0
        creating = asyncio.create_task(daemon.call("POST", "/v1/sessions", {"template": "py"}))

        async def is_started() -> bool:
            return bool(machines(tmp_path))

        await until(is_started)
        daemon.stop.set()
        with pytest.raises(aiohttp.ClientError):
            await creating
    assert machines(tmp_path) == []
    assert daemon.vmm.find_all() == []


async def test_only_the_latest_ends_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "_REMEMBERED", 1)
    async with node(tmp_path) as daemon:
        first, second = await daemon.session(), await daemon.session()
        for session in (first, second):
            await daemon.call("DELETE", f"/v1/sessions/{session['id']}")
        assert (await daemon.ended(second))["ended_reason"] == "deleted"
        status, body = await daemon.call("GET", f"/v1/sessions/{first['id']}")
        assert (status, body["error"]["code"]) == (404, "session_not_found")


# -- parked forks -------------------------------------------------------------------------------


async def test_a_parked_fork_that_dies_is_replaced(tmp_path: Path) -> None:
    async with node(tmp_path, warm={"count": 1}) as daemon:
        await has_parked(daemon, 1)
        (dead,) = machines(tmp_path)
        (record,) = daemon.vmm.find_all()
        os.kill(record.pid, signal.SIGKILL)

        async def is_reaped() -> bool:
            return not psutil.pid_exists(record.pid)

        await until(is_reaped)
        session = await daemon.session()
        assert session["id"] != dead, "a dead one is given to nobody"

        async def is_replaced() -> bool:
            return dead not in machines(tmp_path)

        await daemon.template("b")  # whatever changes makes the keeper of parked forks look
        await until(is_replaced)


async def test_the_parked_forks_of_a_removed_template_are_ended(tmp_path: Path) -> None:
    async with node(tmp_path, warm={"count": 2}) as daemon:
        await has_parked(daemon, 2)
        assert (await daemon.call("DELETE", "/v1/templates/py"))[0] == 204
        await has_parked(daemon, 0)

        async def are_gone() -> bool:
            return machines(tmp_path) == []

        await until(are_gone)


async def test_forks_that_cannot_be_parked_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking_module, "_PAUSE_S", 0.02)
    refused: list[str] = []

    class Watcher:
        def step(self, event: str, /, **_details: str | int | float) -> None:
            if event == "template.ready":
                daemon.vmm.faults = {"die_at_start"}
            if event == "parking.failed":
                refused.append(event)
                daemon.vmm.faults = set()

    async with running_daemon(tmp_path, [Watcher()], warm={"count": 1}) as daemon:
        await daemon.template()
        await has_parked(daemon, 1)
    assert refused
    assert machines(tmp_path) == []


# -- templates ----------------------------------------------------------------------------------


async def test_a_guest_that_comes_to_rest_late_is_asked_again(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.vmm.faults = {"restless"}
        assert (await daemon.template())["state"] == "ready"


async def test_a_guest_that_never_answers_fails_its_build(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, deadlines={"warm_s": 0.3}) as daemon:
        daemon.vmm.faults = {"mute"}
        template = await daemon.template()
        assert (template["stage"], template["error"]["code"]) == ("warm", "guest_not_ready")
        assert "no answer in 0.3 s" in template["error"]["message"]
        assert machines(tmp_path) == []


async def test_a_seal_that_takes_too_long_fails_its_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TemplateStore.seal

    def slow(self: TemplateStore, request: Any, steps: Any) -> Any:
        while True:
            steps.reached("waiting")
            if os.path.exists(tmp_path / "quick"):
                return real(self, request, steps)

    monkeypatch.setattr(TemplateStore, "seal", slow)
    async with running_daemon(tmp_path, deadlines={"seal_s": 0.2}) as daemon:
        template = await daemon.template()
        assert (template["stage"], template["error"]["code"]) == ("seal", "deadline_exceeded")
        assert list((tmp_path / "data/templates").iterdir()) == []


async def test_a_template_that_cannot_be_removed_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: TemplateStore, _name: str) -> None:
        raise TransientError(ErrorCode.DISK_FULL, "removing it")

    async with node(tmp_path) as daemon:
        with monkeypatch.context() as patch:
            patch.setattr(TemplateStore, "remove", refuse)
            assert (await daemon.call("DELETE", "/v1/templates/py"))[0] == 507
        assert (await daemon.call("GET", "/v1/templates/py"))[1]["state"] == "ready"
        await daemon.session()


async def test_of_two_removals_one_is_refused(tmp_path: Path) -> None:
    async with node(tmp_path) as daemon:
        both = [daemon.call("DELETE", "/v1/templates/py") for _ in range(2)]
        statuses = sorted([status for status, _ in await asyncio.gather(*both)])
        assert statuses[0] == 204
        assert statuses[1] in (404, 409)


async def test_a_template_is_read_once_for_all_who_wait_for_it(tmp_path: Path) -> None:
    async with node(tmp_path):
        pass
    loads: list[dict[str, str | int | float]] = []

    class Watcher:
        def step(self, event: str, /, **details: str | int | float) -> None:
            if event == "template.loaded":
                loads.append(details)

    async with running_daemon(tmp_path, [Watcher()]) as daemon:
        found = await asyncio.gather(*(daemon.session() for _ in range(3)))
        assert len(loads) == 1
        assert loads[0]["source"] in ("disk", "cache")
        assert "is in the page cache" in str(loads[0]["why"])
        async with daemon.api.get("http://agentd/metrics") as answer:
            metrics = await answer.text()
        assert f'snapstart_templates_loaded_total{{source="{loads[0]["source"]}"}} 1.0' in metrics
        for session in found:
            await daemon.call("DELETE", f"/v1/sessions/{session['id']}")


async def test_what_is_no_template_is_listed_with_the_reason_and_can_be_removed(
    tmp_path: Path,
) -> None:
    async with node(tmp_path):
        pass
    (tmp_path / "data/templates/py/manifest.json").write_text("{}")
    async with running_daemon(tmp_path) as daemon:
        (found,) = (await daemon.call("GET", "/v1/templates"))[1]["templates"]
        assert (found["state"], found["error"]["code"]) == ("failed", "template_corrupt")
        assert (await daemon.call("DELETE", "/v1/templates/py"))[0] == 204
        assert (await daemon.template())["state"] == "ready"


# -- the node -----------------------------------------------------------------------------------


async def test_a_machine_that_shows_up_late_is_swept_and_what_was_forgotten_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_SWEEP_AFTER_S", 0.1)
    looks, find_all, is_there = itertools.count(), FakeVmm.find_all, threading.Event()

    def find_all_when_it_is_there(vmm: FakeVmm) -> list[VmRecord]:
        assert next(looks) == 0 or is_there.wait(50)
        return find_all(vmm)

    monkeypatch.setattr(FakeVmm, "find_all", find_all_when_it_is_there)
    (tmp_path / "run/vms/s-lost").mkdir(parents=True)
    async with running_daemon(tmp_path) as daemon:
        late = tmp_path / "run/vms/s-late"
        late.mkdir()
        vm = daemon.vmm._spawn("s-late", late, b"")
        is_there.set()
        assert await vm.wait() == "the process ended"

        async def is_forgotten_twice() -> bool:
            return daemon.vmm.forgotten == ["s-lost", "s-lost"]

        await until(is_forgotten_twice)
        assert machines(tmp_path) == ["s-late"], "its own start removes that"


async def test_a_history_that_cannot_be_kept_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data/history.db").mkdir()
    async with node(tmp_path) as daemon:
        assert (await daemon.run(await daemon.session(), "print(1)"))["stdout"] == "1\n"


async def test_a_history_that_loses_its_tables_stops_nothing(tmp_path: Path) -> None:
    import sqlite3

    async with node(tmp_path) as daemon:
        connection = sqlite3.connect(tmp_path / "data/history.db")
        try:
            connection.executescript("DROP TABLE sessions; DROP TABLE builds")
        finally:
            connection.close()
        assert (await daemon.run(await daemon.session(), "print(1)"))["stdout"] == "1\n"
