"""A daemon through its real API, on fake machines."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from agentd.units import MIB
from tests.fakes.daemon import RunningDaemon, running_daemon, until


def code_of(body: Any) -> str:
    return str(body["error"]["code"])


def machines(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "run/vms").iterdir())


async def has_machines(root: Path, count: int) -> None:
    """Wait until there are so many."""

    async def check() -> bool:
        return len(machines(root)) == count

    await until(check)


async def has_sessions(daemon: RunningDaemon, count: int) -> None:
    """Wait until the daemon lists so many."""

    async def check() -> bool:
        return len((await daemon.call("GET", "/v1/sessions"))[1]["sessions"]) == count

    await until(check)


async def finish(daemon: RunningDaemon) -> None:
    """End every session, so that no machine outlives the test."""
    _, found = await daemon.call("GET", "/v1/sessions")
    for session in found["sessions"]:
        await daemon.call("DELETE", f"/v1/sessions/{session['id']}")


# -- sessions -----------------------------------------------------------------------------------


async def test_a_session_is_forked_runs_code_and_is_deleted(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        template = await daemon.template()
        assert template["state"] == "ready", template
        session = await daemon.session(env={"A": "1"}, metadata={"who": "me"})
        assert session["state"] == "ready"
        assert set(session["stages_ms"]) >= {"spawn", "inject", "total"}
        assert session["hostname"] == session["id"]
        outcome = await daemon.run(session, "print(guest.environment['A'], guest.identity)")
        assert outcome["status"] == "ok"
        assert outcome["stdout"].startswith("1 {")
        assert "'who': 'me'" in outcome["stdout"]
        status, _ = await daemon.call("DELETE", f"/v1/sessions/{session['id']}")
        assert status == 204
        assert (await daemon.ended(session))["ended_reason"] == "deleted"
        assert machines(tmp_path) == []


async def test_a_cold_session_boots_the_image_of_its_template(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        image = str(daemon.image)
        session = await daemon.session(mode="cold")
        assert (await daemon.run(session, "x = 1"))["status"] == "ok"
        _, template = await daemon.call("GET", "/v1/templates/py")
        assert (template["sessions"], template["image"]) == (1, image)
        await finish(daemon)


async def test_deleting_a_session_twice_succeeds_twice(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
        path = f"/v1/sessions/{session['id']}"
        both = await asyncio.gather(daemon.call("DELETE", path), daemon.call("DELETE", path))
        assert [status for status, _ in both] == [204, 204]
        assert (await daemon.call("DELETE", path))[0] == 204


async def test_a_session_ends_when_its_time_is_over_even_while_it_is_used(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session(ttl_s=0.3, idle_timeout_s=50)
        path = f"/v1/sessions/{session['id']}/execute"
        status, body = await daemon.call("POST", path, {"code": "wait"})
        assert (status, code_of(body)) == (410, "session_ended")
        assert (await daemon.ended(session))["ended_reason"] == "expired"


async def test_an_idle_session_ends_and_a_busy_one_does_not(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        idle = await daemon.session(idle_timeout_s=0.2)
        while True:  # One that was idle too long before it was used is followed by another.
            busy = await daemon.session(idle_timeout_s=0.2)
            path = f"/v1/sessions/{busy['id']}"
            running = asyncio.create_task(daemon.call("POST", f"{path}/execute", {"code": "wait"}))
            await asyncio.wait({running}, timeout=0.5)
            if not running.done():
                break
        assert (await daemon.ended(idle))["ended_reason"] == "idle"
        await asyncio.sleep(0.3)
        await daemon.call("POST", f"{path}/interrupt")
        assert (await running)[1]["status"] == "interrupted"
        assert (await daemon.ended(busy))["ended_reason"] == "idle"


async def test_the_death_of_one_machine_harms_no_other_session(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        victim, other = await daemon.session(), await daemon.session()
        path = f"/v1/sessions/{victim['id']}/execute"
        running = asyncio.create_task(daemon.call("POST", path, {"code": "wait"}))
        await asyncio.sleep(0.1)
        os.kill(victim["pid"], signal.SIGKILL)
        status, body = await running
        assert (status, code_of(body)) == (410, "session_ended")
        assert (await daemon.ended(victim))["ended_reason"].startswith("vm_died")
        status, body = await daemon.call("POST", path, {"code": "1"})
        assert (status, code_of(body)) == (410, "session_ended")
        assert (await daemon.run(other, "print(1)"))["stdout"] == "1\n"
        assert machines(tmp_path) == [other["id"]]
        await finish(daemon)


async def test_a_request_after_a_lost_channel_waits_for_the_next_one(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
        path = f"/v1/sessions/{session['id']}"
        await daemon.run(session, "x = 7")
        status, body = await daemon.call("POST", f"{path}/execute", {"code": "guest.hang_up()"})
        assert (status, code_of(body)) == (502, "vmm_failed"), "it was in progress"
        both = [daemon.call("GET", f"{path}/entries") for _ in range(2)]
        assert [status for status, _ in await asyncio.gather(*both)] == [200, 200]
        assert (await daemon.run(session, "print(x)"))["stdout"] == "7\n"
        await finish(daemon)


async def test_a_request_that_waits_for_a_channel_hears_that_the_session_ended(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path, deadlines={"adopt_s": 0.3}) as daemon:
        await daemon.template()
        session = await daemon.session()
        path = f"/v1/sessions/{session['id']}"
        later = (
            "import asyncio, os, signal\n"
            "later = asyncio.get_running_loop().call_later\n"
            "later(0.1, guest.hang_up)\n"
            "later(0.2, os.kill, os.getpid(), signal.SIGSTOP)\n"
        )
        await daemon.run(session, later)
        status = 200
        while status in (200, 502):  # 502: it was in progress at that moment
            status, body = await daemon.call("GET", f"{path}/entries")
        assert (status, code_of(body)) == (410, "session_ended")
        assert (await daemon.ended(session))["ended_reason"].startswith("guest_broken")
        assert machines(tmp_path) == []


async def test_a_client_that_goes_away_while_its_session_starts_leaves_none(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        daemon.vmm.delay_s = 30.0
        creating = asyncio.create_task(daemon.session())
        await has_machines(tmp_path, 1)
        creating.cancel()
        await has_sessions(daemon, 0)
        # A session is forgotten last: whoever sees none may count on nothing being left of it.
        assert machines(tmp_path) == []
        assert daemon.vmm.find_all() == []
        daemon.vmm.delay_s = 0.0
        await daemon.session()
        await finish(daemon)


async def test_a_guest_that_dies_at_its_start_fails_the_request_alone(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        daemon.vmm.faults = {"die_at_start"}
        status, body = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        assert (status, code_of(body)) == (502, "vmm_failed")
        daemon.vmm.faults = {"mute"}
        wish = {"template": "py", "deadline_s": 0.3}
        status, body = await daemon.call("POST", "/v1/sessions", wish)
        assert (status, code_of(body)) == (504, "guest_not_ready")
        assert machines(tmp_path) == []
        _, node = await daemon.call("GET", "/v1/status")
        assert node["limits"]["reserved_bytes"] == 0


async def test_a_full_node_refuses_and_recovers(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, admission={"max_sessions": 1}) as daemon:
        await daemon.template()
        first = await daemon.session()
        status, body = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        assert (status, code_of(body)) == (503, "node_full")
        await daemon.call("DELETE", f"/v1/sessions/{first['id']}")
        await daemon.session()
        await finish(daemon)


async def test_starts_beyond_the_concurrency_wait_their_turn(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, admission={"concurrent_forks": 1}) as daemon:
        await daemon.template()
        daemon.vmm.goes_on.clear()
        slow = asyncio.create_task(daemon.session())
        while not machines(tmp_path):  # noqa: ASYNC110 - it has its turn when it has a directory
            await asyncio.sleep(0.01)
        wish = {"template": "py", "deadline_s": 0.05}
        status, body = await daemon.call("POST", "/v1/sessions", wish)
        assert (status, code_of(body)) == (503, "node_full")
        daemon.vmm.goes_on.set()
        assert (await slow)["state"] == "ready"
        await finish(daemon)


async def test_a_parked_fork_serves_only_who_brings_nothing(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, warm={"count": 1}) as daemon:
        await daemon.template()

        async def has_parked() -> bool:
            return bool((await daemon.call("GET", "/v1/status"))[1]["limits"]["parked"])

        await until(has_parked)
        (parked,) = machines(tmp_path)
        own = await daemon.session(env={"A": "1"})
        assert own["id"] != parked
        taken = await daemon.session()
        assert taken["id"] == parked
        assert (await daemon.run(taken, "print(guest.count)"))["stdout"] == "1\n"
        async with daemon.api.get("http://agentd/metrics") as answer:
            text = await answer.text()
        assert 'snapstart_sessions_started_total{start="parked"} 1.0' in text
        assert 'snapstart_sessions_started_total{start="fork"} 1.0' in text
        await finish(daemon)
    assert machines(tmp_path) == []


# -- what runs in a session ---------------------------------------------------------------------


async def test_output_streams_as_it_comes_and_can_be_interrupted(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
        path = f"http://agentd/v1/sessions/{session['id']}"
        async with daemon.api.post(
            f"{path}/execute", json={"code": "wait"}, headers={"Accept": "application/x-ndjson"}
        ) as answer:
            assert json.loads(await answer.content.readline())["text"] == "waiting\n"
            async with daemon.api.post(f"{path}/interrupt") as interrupted:
                assert interrupted.status == 204
            last = json.loads(await answer.content.readline())
            assert (last["type"], last["status"]) == ("end", "interrupted")
            assert await answer.content.readline() == b""
        await finish(daemon)


async def test_a_stream_that_breaks_says_why_on_its_last_line(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
        url = f"http://agentd/v1/sessions/{session['id']}/execute"
        async with daemon.api.post(
            url, json={"code": "wait"}, headers={"Accept": "application/x-ndjson"}
        ) as answer:
            await answer.content.readline()
            os.kill(session["pid"], signal.SIGKILL)
            last = json.loads(await answer.content.readline())
        assert last["type"] == "failed"
        await daemon.ended(session)


async def test_an_exception_of_user_code_is_an_outcome(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
        outcome = await daemon.run(session, "1/0")
        assert (outcome["status"], outcome["error"]["name"]) == ("error", "ZeroDivisionError")
        await daemon.run(session, "x = 1")
        await daemon.call("POST", f"/v1/sessions/{session['id']}/restart")
        assert (await daemon.run(session, "x"))["error"]["name"] == "NameError"
        await finish(daemon)


async def test_files_go_in_and_out(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, api={"max_file_bytes": 1_000_000}) as daemon:
        await daemon.template()
        session = await daemon.session(files={"a.txt": base64.b64encode(b"hello").decode()})
        base = f"http://agentd/v1/sessions/{session['id']}"
        content = os.urandom(700_000)
        async with daemon.api.put(f"{base}/files/d/b.bin", data=content) as answer:
            assert answer.status == 204
        async with daemon.api.get(f"{base}/files/d/b.bin") as answer:
            assert (answer.content_length, await answer.read()) == (len(content), content)
        async with daemon.api.put(f"{base}/files/c", data=bytes(1_000_001)) as answer:
            assert answer.status == 413
        entries = (await daemon.call("GET", f"/v1/sessions/{session['id']}/entries"))[1]["entries"]
        assert sorted(entry["path"] for entry in entries) == ["a.txt", "d/b.bin"]
        file = f"/v1/sessions/{session['id']}/files/a.txt"
        assert (await daemon.call("DELETE", file))[0] == 204
        status, body = await daemon.call("GET", file)
        assert (status, code_of(body)) == (404, "file_not_found")
        await finish(daemon)


async def test_requests_pass_to_the_guests_own_interface(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
        url = f"http://agentd/v1/sessions/{session['id']}/http/api/files?x=1"
        for _ in range(2):
            async with daemon.api.post(url, data=b"body") as answer:
                assert answer.status == 207
                assert answer.headers["X-Guest"] == "yes"
                assert await answer.text() == "POST /api/files?x=1 HTTP/1.1"
        await finish(daemon)


# -- templates ----------------------------------------------------------------------------------


async def test_a_contaminated_guest_becomes_no_template_and_says_why(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.vmm.faults = {"contaminated"}
        template = await daemon.template()
        assert (template["state"], template["stage"]) == ("failed", "verdict")
        assert template["error"]["code"] == "guest_contaminated"
        assert "tcp to somewhere" in template["error"]["message"]
        assert machines(tmp_path) == []
        status, body = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        assert (status, code_of(body)) == (422, "guest_contaminated")
        daemon.vmm.faults = set()
        assert (await daemon.call("DELETE", "/v1/templates/py"))[0] == 204
        assert (await daemon.template())["state"] == "ready"


async def test_a_machine_with_a_network_device_becomes_no_template(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.vmm.faults = {"network"}
        template = await daemon.template()
        assert template["error"]["code"] == "guest_contaminated"
        assert "the VM has a network device" in template["error"]["message"]


async def test_a_guest_that_vanishes_after_it_answered_leaves_its_console(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.vmm.faults = {"die_at_baseline"}
        template = await daemon.template()
        assert (template["stage"], template["error"]["code"]) == ("baseline", "vmm_failed")
        assert "its console said last: 'fake console'" in template["error"]["message"]
        assert machines(tmp_path) == []


async def test_a_machine_that_dies_while_it_warms_fails_the_build(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.vmm.faults = {"die_at_start"}
        template = await daemon.template()
        assert template["error"]["code"] == "guest_not_ready"
        assert "the monitor said: fake monitor: the device is gone" in template["error"]["message"]
        assert "fake console" in template["error"]["message"]
        assert machines(tmp_path) == []


async def test_a_machine_too_small_for_its_image_is_refused_with_the_least_size(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path) as daemon:
        initrd = bytes(2 * MIB)
        (daemon.image / "initrd").write_bytes(initrd)
        manifest = json.loads((daemon.image / "image.json").read_text())
        digest = hashlib.sha256(initrd).hexdigest()
        manifest["initrd"] = {"name": "initrd", "sha256": digest, "size_bytes": len(initrd)}
        (daemon.image / "image.json").write_text(json.dumps(manifest))
        template = await daemon.template()
        assert (template["state"], code_of(template)) == ("failed", "request_invalid")
        assert "at least 7 MiB" in template["error"]["message"]
        assert "memory_mib 7" in template["error"]["hint"]
        assert machines(tmp_path) == []


async def test_a_build_can_be_removed_while_it_runs(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.vmm.faults = {"hang_at_baseline"}
        await daemon.build_until("baseline")
        assert (await daemon.call("DELETE", "/v1/templates/py"))[0] == 204
        assert (await daemon.call("GET", "/v1/templates/py"))[0] == 404
        assert machines(tmp_path) == []


async def test_a_template_in_use_is_not_removed(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        await daemon.session()
        status, body = await daemon.call("DELETE", "/v1/templates/py")
        assert (status, code_of(body)) == (409, "template_in_use")
        await finish(daemon)
        assert (await daemon.call("DELETE", "/v1/templates/py"))[0] == 204
        status, body = await daemon.call("POST", "/v1/sessions", {"template": "py"})
        assert (status, code_of(body)) == (404, "template_not_found")


async def has_digest(root: Path) -> None:
    """Wait until the template's SHA-256 is recorded."""

    async def check() -> bool:
        return (root / "data/templates/py/memory.sha256").exists()

    await until(check)


async def test_the_digest_of_a_template_is_recorded_and_confirmed(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        await has_digest(tmp_path)
        recorded = (tmp_path / "data/templates/py/memory.sha256").read_text().split()[0]
        memory = (tmp_path / "data/templates/py/memory").read_bytes()
        assert recorded == hashlib.sha256(memory).hexdigest()
        status, checked = await daemon.call("POST", "/v1/templates/py/verify")
        assert status == 200
        assert (checked["name"], checked["sha256"]) == ("py", recorded)
        assert checked["has_record"] is True
        assert checked["memory_bytes"] == len(memory) >= checked["data_bytes"] > 0


async def test_damage_on_disk_is_found_by_verify_while_loaded_memory_serves_on(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        await has_digest(tmp_path)
        memory = tmp_path / "data/templates/py/memory"
        with memory.open("r+b") as file:
            file.write(b"XX")
        status, body = await daemon.call("POST", "/v1/templates/py/verify")
        assert (status, code_of(body)) == (422, "template_corrupt")
        assert "changed between offsets 0 and" in body["error"]["message"]
        assert (await daemon.session())["state"] == "ready"
        await finish(daemon)


async def test_only_a_template_that_is_sealed_can_be_verified(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        status, body = await daemon.call("POST", "/v1/templates/none/verify")
        assert (status, code_of(body)) == (404, "template_not_found")
        daemon.vmm.faults = {"hang_at_baseline"}
        await daemon.build_until("baseline")
        status, body = await daemon.call("POST", "/v1/templates/py/verify")
        assert (status, code_of(body)) == (409, "template_not_ready")


# -- bad requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/templates", {"name": "../x", "image": "i"}, 400, "name_invalid"),
        ("POST", "/v1/templates", {"name": "py", "image": "i"}, 409, "template_exists"),
        ("POST", "/v1/templates", {"name": "b", "image": "i", "vcpus": 0}, 400, "request_invalid"),
        ("POST", "/v1/templates", {"name": "b"}, 400, "request_invalid"),
        ("GET", "/v1/templates/none", None, 404, "template_not_found"),
        ("DELETE", "/v1/templates/none", None, 404, "template_not_found"),
        ("POST", "/v1/sessions", {"template": "none"}, 404, "template_not_found"),
        ("POST", "/v1/sessions", {"template": "py", "tll_s": 3}, 400, "request_invalid"),
        ("POST", "/v1/sessions", {"template": "py", "ttl_s": -3}, 400, "request_invalid"),
        ("POST", "/v1/sessions", {"template": "py", "env": {"PATH": "x"}}, 400, "request_invalid"),
        ("POST", "/v1/sessions", {"template": "py", "files": {"/x": ""}}, 400, "request_invalid"),
        ("POST", "/v1/sessions", [], 400, "request_invalid"),
        ("GET", "/v1/sessions/s-0", None, 404, "session_not_found"),
        ("DELETE", "/v1/sessions/s-0", None, 404, "session_not_found"),
        ("POST", "/v1/sessions/s-0/execute", {"code": ""}, 404, "session_not_found"),
        ("GET", "/v1/nothing", None, 404, "request_invalid"),
        ("PATCH", "/v1/sessions", None, 405, "request_invalid"),
    ],
)
async def test_a_bad_request_gets_a_clear_error_and_harms_nobody(
    tmp_path: Path, method: str, path: str, body: Any, status: int, code: str
) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        found, answer = await daemon.call(method, path, body)
        assert (found, code_of(answer)) == (status, code), answer
        assert machines(tmp_path) == []


async def test_the_node_describes_itself(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        await daemon.template()
        session = await daemon.session()
        assert (await daemon.call("GET", "/v1/health"))[1]["status"] == "ok"
        _, usage = await daemon.call("GET", "/v1/usage")
        assert usage["usage"][0]["session"] == session["id"]
        assert 0 < usage["usage"][0]["private_bytes"] <= usage["usage"][0]["rss_bytes"]
        _, document = await daemon.call("GET", "/openapi.json")
        assert "/v1/sessions/{id}/files/{path}" in document["paths"]
        assert "CreateSession" in document["components"]["schemas"]
        await finish(daemon)
