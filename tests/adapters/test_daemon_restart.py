"""What a daemon leaves, and what its successor makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ConfigError
from agentd.wire.manifest import VmmFacts
from tests.fakes.daemon import RunningDaemon, running_daemon, until
from tests.fakes.vmm import FakeVmm


async def finish(daemon: RunningDaemon) -> None:
    """End every session, so that no machine outlives the test."""
    _, found = await daemon.call("GET", "/v1/sessions")
    for session in found["sessions"]:
        await daemon.call("DELETE", f"/v1/sessions/{session['id']}")


async def test_sessions_outlive_their_daemon_and_go_on_under_the_next(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        before = await daemon.session(metadata={"who": "me"})
        await daemon.run(before, "x = 42")
    os.kill(before["pid"], 0)
    async with running_daemon(tmp_path) as daemon:
        _, after = await daemon.call("GET", f"/v1/sessions/{before['id']}")
        changed = ("last_used_at",)
        assert {k: v for k, v in after.items() if k not in changed} == {
            k: v for k, v in before.items() if k not in changed
        }
        assert (await daemon.run(after, "print(x)"))["stdout"] == "42\n"
        _, node = await daemon.call("GET", "/v1/status")
        assert node["limits"]["reserved_bytes"] > 0
        status, _ = await daemon.call("DELETE", "/v1/templates/py")
        assert status == 409
        assert (await daemon.session())["state"] == "ready"
        await finish(daemon)
        assert daemon.vmm.find_all() == []


async def test_a_session_that_died_or_expired_meanwhile_is_cleaned_up(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        died = await daemon.session()
        expired = await daemon.session(ttl_s=0.2)
    os.kill(died["pid"], signal.SIGKILL)
    os.waitpid(died["pid"], 0)  # noqa: ASYNC222 - it was killed
    await asyncio.sleep(0.3)
    async with running_daemon(tmp_path) as daemon:
        assert (await daemon.call("GET", "/v1/sessions"))[1] == {"sessions": []}
        assert list((tmp_path / "run/vms").iterdir()) == []
        assert daemon.vmm.find_all() == []
        assert expired["pid"] != died["pid"]


async def test_a_guest_that_no_longer_answers_is_not_adopted(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
    os.kill(session["pid"], signal.SIGSTOP)
    async with running_daemon(tmp_path, deadlines={"adopt_s": 0.3}) as daemon:
        assert (await daemon.call("GET", "/v1/sessions"))[1] == {"sessions": []}
        assert daemon.vmm.find_all() == []


async def test_a_machine_nobody_knows_is_ended(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        await daemon.session()
    (tmp_path / "run/journal").unlink()
    async with running_daemon(tmp_path) as daemon:
        assert daemon.vmm.find_all() == []
        assert list((tmp_path / "run/vms").iterdir()) == []


async def test_a_second_daemon_in_the_same_run_directory_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    paths = {
        "data_dir": other / "data",
        "run_dir": tmp_path / "run",
        "image_cache_dir": other / "i",
    }
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
        with pytest.raises(ConfigError, match="locking the run directory"):
            async with running_daemon(other, paths=paths, api={"socket": other / "api.sock"}):
                pass
        assert (await daemon.run(session, "print(1)"))["stdout"] == "1\n"
        await finish(daemon)


async def test_a_build_that_is_stopped_is_reported_as_failed(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.vmm.faults = {"hang_at_baseline"}
        await daemon.build_until("baseline")
    async with running_daemon(tmp_path) as daemon:
        _, template = await daemon.call("GET", "/v1/templates/py")
        assert (template["state"], template["error"]["code"]) == ("failed", "shutting_down")
        assert daemon.vmm.find_all() == []
        assert (await daemon.call("DELETE", "/v1/templates/py"))[0] == 204


def damage(root: Path) -> None:
    """Change the memory of a template on disk."""
    with (root / "data/templates/py/memory").open("r+b") as file:
        file.write(b"XX")


async def has_state(daemon: RunningDaemon, state: str) -> dict[str, Any]:
    """Wait until the template is in a state; returns it."""

    async def check() -> bool:
        return bool((await daemon.call("GET", "/v1/templates/py"))[1]["state"] == state)

    await until(check)
    found: dict[str, Any] = (await daemon.call("GET", "/v1/templates/py"))[1]
    return found


async def recorded(root: Path) -> str:
    """The SHA-256 of the template, once it is recorded."""
    path = root / "data/templates/py/memory.sha256"

    async def check() -> bool:
        return path.exists()

    await until(check)
    return path.read_text()


async def test_a_template_found_damaged_is_listed_as_failed_and_not_read_again(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        await recorded(tmp_path)
    damage(tmp_path)
    async with running_daemon(tmp_path) as daemon:
        assert (await daemon.call("GET", "/v1/templates/py"))[1]["state"] == "ready"
        status, body = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        assert (status, body["error"]["code"]) == (422, "template_corrupt")
        (found,) = (await daemon.call("GET", "/v1/templates"))[1]["templates"]
        assert (found["state"], found["error"]["code"]) == ("failed", "template_corrupt")
        (tmp_path / "data/templates/py/memory").unlink()
        status, again = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        assert status == 422
        assert body["error"]["message"] in again["error"]["message"], "what was found is kept"
        status, body = await daemon.call("POST", "/v1/templates/py/verify")
        assert (status, body["error"]["code"]) == (422, "template_corrupt")
        assert "memory is missing" in body["error"]["message"]
        assert (await daemon.call("DELETE", "/v1/templates/py"))[0] == 204


async def test_a_template_of_another_monitor_is_listed_as_failed_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        await recorded(tmp_path)
    other = VmmFacts("fake", "2", "none", "none", "none", (), "none", 0)
    monkeypatch.setattr(FakeVmm, "facts", lambda _self, _machine: other)
    async with running_daemon(tmp_path) as daemon:
        (found,) = (await daemon.call("GET", "/v1/templates"))[1]["templates"]
        assert (found["state"], found["error"]["code"]) == ("failed", "template_incompatible")
        assert "monitor version was '1', is '2'" in found["error"]["message"]
        status, body = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        assert (status, body["error"]["code"]) == (422, "template_incompatible")
        assert (await daemon.call("POST", "/v1/templates/py/verify"))[0] == 200, "it is sound"
    monkeypatch.undo()
    async with running_daemon(tmp_path) as daemon:
        assert (await daemon.call("GET", "/v1/templates/py"))[1]["state"] == "ready"


async def test_a_digest_that_is_missing_is_recorded_at_the_next_start(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        first = await recorded(tmp_path)
    (tmp_path / "data/templates/py/memory.sha256").unlink()
    async with running_daemon(tmp_path):
        assert await recorded(tmp_path) == first
    (tmp_path / "data/templates/py/memory.sha256").unlink()
    damage(tmp_path)
    async with running_daemon(tmp_path) as daemon:
        found = await has_state(daemon, "failed")
        assert found["error"]["code"] == "template_corrupt"
        assert not (tmp_path / "data/templates/py/memory.sha256").exists()


async def test_what_the_host_keeps_of_a_machine_that_died_meanwhile_is_removed(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
    os.kill(session["pid"], signal.SIGKILL)
    os.waitpid(session["pid"], 0)  # noqa: ASYNC222 - it was killed
    async with running_daemon(tmp_path) as daemon:
        assert session["id"] in daemon.vmm.forgotten


async def test_two_daemons_do_not_share_a_data_directory(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        with pytest.raises(ConfigError, match=f"pid {os.getpid()}"):
            async with running_daemon(tmp_path):
                pass
        assert (await daemon.call("GET", "/v1/health"))[0] == 200


async def test_a_stale_socket_file_is_replaced_and_a_foreign_file_is_not(tmp_path: Path) -> None:
    import socket

    run = tmp_path / "run"
    run.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(run / "agentd.sock"))
    async with running_daemon(tmp_path) as daemon:
        assert (await daemon.call("GET", "/v1/health"))[0] == 200
        assert stat.S_IMODE((run / "agentd.sock").stat().st_mode) == 0o660
    assert not (run / "agentd.sock").exists()
    (run / "agentd.sock").write_text("mine")
    with pytest.raises(ConfigError, match="not a socket"):
        async with running_daemon(tmp_path):
            pass
    assert (run / "agentd.sock").read_text() == "mine"


async def test_history_is_kept(tmp_path: Path) -> None:
    import sqlite3

    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
        await finish(daemon)
    connection = sqlite3.connect(tmp_path / "data/history.db")
    try:
        rows = connection.execute("SELECT id, reason FROM sessions").fetchall()
        outcomes = connection.execute("SELECT name, outcome FROM builds").fetchall()
    finally:
        connection.close()
    assert rows == [(session["id"], "deleted")]
    assert outcomes == [("py", "ready")]
