"""What a daemon leaves, and what its successor makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from agentd.errors import ConfigError
from tests.fakes.daemon import RunningDaemon, running_daemon


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


async def test_a_build_that_is_stopped_is_reported_as_failed(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.vmm.faults = {"hang_at_baseline"}
        await daemon.build_until("baseline")
    async with running_daemon(tmp_path) as daemon:
        _, template = await daemon.call("GET", "/v1/templates/py")
        assert (template["state"], template["error"]["code"]) == ("failed", "shutting_down")
        assert daemon.vmm.find_all() == []
        assert (await daemon.call("DELETE", "/v1/templates/py"))[0] == 204


async def test_a_damaged_template_is_refused_at_its_first_use(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
    memory = next((tmp_path / "data/templates/py").glob("mem*"))
    memory.chmod(stat.S_IRUSR | stat.S_IWUSR)
    with memory.open("r+b") as file:
        file.write(b"XX")
    async with running_daemon(tmp_path) as daemon:
        status, body = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        assert (status, body["error"]["code"]) == (422, "template_corrupt")


async def test_two_daemons_do_not_share_a_data_directory(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        with pytest.raises(ConfigError, match="another agentd"):
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
