"""A Pod that waits for an injection after a silent cold boot is found, told of, made anew once."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentd.kuasar.client import Form
from agentd.node.restore_listing import ROUND_S
from agentd.node.restore_watch import RECHECK_S
from agentd.node.stuck_pod import Gate, look_at_guest
from agentd.node.stuck_replace import REPLACED_POD
from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.errors import ConflictError, ForbiddenError, UnavailableError
from controlplane.kube.resource import PODS
from tests.adapters.node.restore_world import (
    INTENT,
    SANDBOXES,
    STUCK_S,
    Guest,
    RestoreWorld,
)

both_forms = pytest.mark.parametrize("form", list(Form), ids=["json", "grpc"])
WAITS = "waits_for_injection"
FALLBACK = ("Sandbox", "box", "Warning", "SandboxRestoreFallback")


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that stands still is no silent one, but where one is."""
    if "says_nothing" not in request.node.name:
        monkeypatch.setattr("agentd.node.stuck_pod.LOOK_S", 40.0)


@asynccontextmanager
async def cold_world(root: Path, form: Form, **facts: Any) -> AsyncIterator[RestoreWorld]:
    """A Pod of a Sandbox that booted cold, as was told; its guest says nothing yet.

    facts: of the Pod, and replace_stuck.
    """
    replace = facts.pop("replace_stuck", False)
    async with RestoreWorld(root, form, replace_stuck=replace) as world, world.guest.serving():
        world.start_pod(owner=world.sandbox(), **facts)
        await world.look()
        assert world.said() == ("cold", "artifact_missing")
        assert world.events() == [FALLBACK]
        yield world


# --- finding -------------------------------------------------------------------------------------


@both_forms
async def test_a_closed_gate_is_told_once_its_time_is_over(tmp_path: Path, form: Form) -> None:
    async with cold_world(tmp_path, form) as world:
        world.guest.has_gate("closed")
        assert await world.look() == STUCK_S
        assert not world.guest.asked, "nobody is looked at before"
        await world.look(after_s=STUCK_S)
        assert world.said() == ("cold", WAITS)
        assert world.stuck() == {"gate_closed": 1.0}
        assert world.events() == [FALLBACK, FALLBACK]
        assert "waits for an injection that will never come" in world.messages()
        assert world.has(), "nobody asked for its deletion"


async def test_being_ready_does_not_hide_a_closed_gate(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, is_ready=True) as world:
        world.guest.has_gate("closed")
        await world.look(after_s=STUCK_S)
        assert world.said() == ("cold", WAITS)


async def test_a_status_that_may_be_snapshotted_is_a_closed_gate(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC) as world:
        world.guest.says(
            "/runtime/status", '{"checkpoint": "BrowserReady", "safeToSnapshot": true}'
        )
        await world.look(after_s=STUCK_S)
        assert world.said() == ("cold", WAITS)
        assert set(world.guest.asked) == {"/health", "/runtime/status"}


async def test_an_open_gate_is_never_looked_at_again(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, is_ready=False) as world:
        world.guest.has_gate("open")
        assert await world.look(after_s=STUCK_S) is None
        world.guest.has_gate("closed")
        for _ in range(3):
            assert await world.look(after_s=RECHECK_S) is None
        assert world.guest.asked.total() == 1
        assert world.stuck() == {}
        assert world.said() == ("cold", "artifact_missing")


async def test_a_guest_that_says_nothing_but_is_ready_does_not_wait(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, is_ready=True) as world:
        assert await world.look(after_s=STUCK_S) is None
        assert world.stuck() == {}


async def test_a_guest_that_says_nothing_and_is_not_ready_is_suspected_once(
    tmp_path: Path,
) -> None:
    async with cold_world(tmp_path, Form.GRPC, is_ready=False, replace_stuck=True) as world:
        await world.snapshot()
        for _ in range(3):
            assert await world.look(after_s=STUCK_S) == RECHECK_S
        assert world.stuck() == {"not_ready": 1.0}
        assert "may wait for an injection" in world.messages()
        assert world.said() == ("cold", "artifact_missing"), "it may just be slow"
        assert world.has(), "and what may be slow is not deleted"
        world.set_ready(True)
        assert await world.look(after_s=RECHECK_S) is None


async def test_a_suspicion_that_becomes_certain_is_told(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, is_ready=False) as world:
        await world.look(after_s=STUCK_S)
        world.guest.has_gate("closed")
        await world.look(after_s=RECHECK_S)
        assert world.said() == ("cold", WAITS)
        assert world.stuck() == {"not_ready": 1.0, "gate_closed": 1.0}


async def test_a_pod_that_changes_all_the_time_is_looked_at_now_and_then(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, is_ready=False) as world:
        await world.look(after_s=STUCK_S)
        asked = world.guest.asked.total()
        for _ in range(5):
            assert await world.look(after_s=1.0) is not None
        assert world.guest.asked.total() == asked


async def test_what_is_known_to_wait_is_told_once_across_restarts(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC) as world:
        world.guest.has_gate("closed")
        await world.look(after_s=STUCK_S)
        await world.end()
        await world.begin()
        assert await world.look(after_s=RECHECK_S) == RECHECK_S
        assert world.stuck() == {"gate_closed": 1.0}
        assert world.events() == [FALLBACK, FALLBACK]


async def test_only_cold_pods_are_looked_at(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world, world.guest.serving():
        world.guest.has_gate("closed")
        await world.snapshot()
        world.start_pod("restored")
        world.pod("unknown", annotations={**INTENT, names.STARTED_FROM: "unknown"})
        for name in ("restored", "unknown"):
            assert await world.look(name, after_s=ROUND_S) is None
            assert await world.look(name, after_s=STUCK_S) is None
        assert not world.guest.asked


async def test_a_pod_whose_container_crashes_waits_for_nothing(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, is_ready=False) as world:
        status = {"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}
        world.kube.cluster.merge(
            PODS, "pod", {"status": status}, namespace="team", subresource="status"
        )
        assert await world.look(after_s=STUCK_S) is None
        assert not world.guest.asked


# --- replacing -----------------------------------------------------------------------------------


def noted(world: RestoreWorld) -> str | None:
    """What the Sandbox says of it."""
    found = world.kube.cluster.get(SANDBOXES, "box", "team")["metadata"]
    value: str | None = found.get("annotations", {}).get(REPLACED_POD)
    return value


@both_forms
async def test_by_policy_it_is_deleted_while_its_snapshot_is_there(
    tmp_path: Path, form: Form
) -> None:
    async with cold_world(tmp_path, form, replace_stuck=True) as world:
        world.guest.has_gate("closed")
        uid = world.get()["metadata"]["uid"]
        await world.look(after_s=STUCK_S)
        assert world.has(), "made anew it would be cold again"
        assert noted(world) is None
        await world.snapshot()
        await world.look(after_s=RECHECK_S)
        assert not world.has()
        assert noted(world) == uid
        assert world.replaced() == 1.0
        assert world.events() == [FALLBACK] * 3
        assert "deleted Pod pod" in world.messages()


@both_forms
async def test_a_second_pod_of_a_sandbox_is_not_deleted(tmp_path: Path, form: Form) -> None:
    async with cold_world(tmp_path, form, replace_stuck=True) as world:
        world.guest.has_gate("closed")
        await world.snapshot()
        await world.look(after_s=STUCK_S)
        assert not world.has()
        world.kube.cluster.delete(PODS, "pod", namespace="team", grace_s=0)
        box = world.kube.cluster.get(SANDBOXES, "box", "team")
        world.sandboxer.restore_faults.append("vm.restore: no such memory")
        world.start_pod(owner=box)
        await world.look(after_s=ROUND_S)
        assert world.said() == ("cold", "not_restored")
        for _ in range(3):
            await world.look(after_s=STUCK_S)
        assert world.said() == ("cold", WAITS)
        assert world.has()
        assert world.replaced() == 1.0


async def test_a_deletion_that_failed_after_it_was_noted_is_repeated(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, replace_stuck=True) as world:
        world.guest.has_gate("closed")
        await world.snapshot()
        world.kube.fail_next("delete", UnavailableError("delete pods: 503"), resource=PODS)
        with pytest.raises(UnavailableError):
            await world.look(after_s=STUCK_S)
        assert noted(world) is not None
        assert world.has()
        await world.end()
        await world.begin()
        await world.look(after_s=RECHECK_S)
        assert not world.has()
        assert world.replaced() == 1.0


async def test_a_successor_that_took_its_name_meanwhile_is_not_deleted(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, replace_stuck=True) as world:
        world.guest.has_gate("closed")
        await world.snapshot()
        note = world.kube.merge

        async def note_late(*args: Any, **kwargs: Any) -> JsonObject:
            done = await note(*args, **kwargs)
            if args[0] == SANDBOXES:
                world.kube.cluster.delete(PODS, "pod", namespace="team", grace_s=0)
                world.pod()
            return done

        world.kube.merge = note_late  # type: ignore[method-assign]
        with pytest.raises(ConflictError):
            await world.look(after_s=STUCK_S)
        assert world.has()
        assert world.replaced() == 0.0


async def test_without_the_right_to_note_it_nothing_is_deleted(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, replace_stuck=True) as world:
        world.guest.has_gate("closed")
        await world.snapshot()
        no = ForbiddenError("patch sandboxes box: forbidden")
        world.kube.fail_next("merge", no, resource=SANDBOXES)
        with pytest.raises(ForbiddenError):
            await world.look(after_s=STUCK_S)
        assert world.said() == ("cold", WAITS), "it is told all the same"
        assert world.has()


async def test_a_pod_without_a_sandbox_is_not_deleted(tmp_path: Path) -> None:
    async with (
        RestoreWorld(tmp_path, Form.GRPC, replace_stuck=True) as world,
        world.guest.serving(),
    ):
        world.guest.has_gate("closed")
        world.start_pod()
        await world.look()
        await world.snapshot()
        await world.look(after_s=STUCK_S)
        assert world.said() == ("cold", WAITS)
        assert world.has()


async def test_a_pod_whose_sandbox_is_gone_is_not_deleted(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, replace_stuck=True) as world:
        world.guest.has_gate("closed")
        await world.snapshot()
        world.kube.cluster.delete(SANDBOXES, "box", namespace="team")
        await world.look(after_s=STUCK_S)
        assert world.has()


async def test_an_annotation_alone_makes_no_pod_cold(tmp_path: Path) -> None:
    async with (
        RestoreWorld(tmp_path, Form.GRPC, replace_stuck=True) as world,
        world.guest.serving(),
    ):
        world.guest.has_gate("closed")
        await world.snapshot()
        forged = {**INTENT, names.STARTED_FROM: "cold"}
        world.start_pod(owner=world.sandbox(), annotations=forged)
        await world.look(after_s=STUCK_S)
        assert world.has(), "its sandboxer says that it was restored"
        assert noted(world) is None


async def test_a_pod_whose_second_sandbox_was_restored_is_not_deleted(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, replace_stuck=True) as world:
        world.guest.has_gate("closed")
        await world.snapshot()
        uid = world.get()["metadata"]["uid"]
        world.sandboxer.end(world.sandboxer.of_pod(uid))
        world.sandboxer.start(uid, INTENT, Form.GRPC)
        await world.look(after_s=STUCK_S)
        assert world.has(), "what was listed before is out of date"
        assert noted(world) is None


async def test_nothing_is_deleted_while_a_snapshot_is_made(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, replace_stuck=True) as world:
        world.guest.has_gate("closed")
        await world.snapshot()
        async with world.access.turn:
            await world.look(after_s=STUCK_S)
            assert world.has()
        await world.look(after_s=RECHECK_S)
        assert not world.has()


async def test_a_sandboxer_that_is_away_deletes_nothing(tmp_path: Path) -> None:
    async with cold_world(tmp_path, Form.GRPC, replace_stuck=True) as world:
        world.guest.has_gate("closed")
        await world.snapshot()
        await world.node.stop()
        assert await world.look(after_s=STUCK_S) == RECHECK_S
        assert world.has()
        assert any(step == "pod.replace.failed" for step, _ in world.steps)


# --- looking at a guest --------------------------------------------------------------------------


async def gate_of(guest: Guest) -> Gate:
    async with guest.serving():
        return await look_at_guest("127.0.0.1", guest.port)


async def test_a_gate_is_read_from_the_first_path_that_tells_it() -> None:
    guest = Guest()
    guest.has_gate("closed")
    assert await gate_of(guest) is Gate.CLOSED
    assert guest.asked == {"/health": 1}


async def test_nobody_is_there_to_ask() -> None:
    assert await look_at_guest("127.0.0.1", 1) is Gate.UNTOLD
    assert await look_at_guest("127.0.0.1", 70_000) is Gate.UNTOLD


async def test_no_redirect_is_followed() -> None:
    guest, other = Guest(), Guest()
    async with other.serving():
        other.has_gate("closed")
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{other.port}/health"
        for path in ("/health", "/runtime/status"):
            guest.says(path, "", head=moved)
        assert await gate_of(guest) is Gate.UNTOLD
    assert not other.asked


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\xff" * 100,
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b'{"gate": "closed"}'),
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff\xfe=\r\nLocation: http://[\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n" + b'{"gate": "closed", "x": "' + b"a" * 300_000 + b'"}',
    ],
    ids=[
        "nothing",
        "another-protocol",
        "binary",
        "truncated",
        "bad-chunks",
        "not-unpacked",
        "endless-header",
        "odd-headers",
        "too-long",
    ],
)
async def test_a_guest_may_say_anything(answer: bytes) -> None:
    guest = Guest()
    guest.answers = dict.fromkeys(("/health", "/runtime/status"), answer)
    assert await gate_of(guest) is Gate.UNTOLD
    assert guest.asked, "it was asked"


async def test_a_look_that_is_cancelled_hangs_up() -> None:
    guest = Guest()
    guest.is_silent = True
    async with guest.serving():
        looking = asyncio.create_task(look_at_guest("127.0.0.1", guest.port))
        while not guest.asked:  # noqa: ASYNC110 - its test has a time-out
            await asyncio.sleep(0.01)
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        assert looking.cancelled()


async def test_a_guest_that_accepts_and_says_nothing_is_given_up() -> None:
    guest = Guest()
    guest.is_silent = True
    assert await gate_of(guest) is Gate.UNTOLD
    assert guest.asked.total() == 1, "the second path would take no less time"
