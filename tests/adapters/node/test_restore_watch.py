"""Every Pod that was to be restored is judged once, by what its sandboxer says."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from agentd.kuasar.client import Form, PodRef
from agentd.node.restore_evidence import GIVE_UP_S
from agentd.node.restore_listing import ROUND_S
from controlplane.api import names
from controlplane.api.types import SnapshotMode
from controlplane.errors import ConflictError, UnavailableError
from controlplane.kube.resource import PODS
from tests.adapters.node.restore_world import INTENT, KEY, RestoreWorld, caught_up
from tests.fakes.kuasar.faults import Abort
from tests.fakes.kuasar.sandboxer import Config, Sandbox

both_forms = pytest.mark.parametrize("form", list(Form), ids=["json", "grpc"])


# --- verdicts ------------------------------------------------------------------------------------


@both_forms
async def test_a_restored_pod_is_told_and_counted(tmp_path: Path, form: Form) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        await world.snapshot()
        world.start_pod(owner=world.sandbox())
        assert await world.look() is None
        assert world.said() == ("snapshot", None)
        assert world.restores() == {("restore", ""): 1.0}
        assert world.events() == [("Sandbox", "box", "Normal", "SandboxRestoredFromSnapshot")]
        assert "Pod pod was restored" in world.messages()


@both_forms
async def test_a_silent_cold_boot_is_told_and_counted(tmp_path: Path, form: Form) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        world.start_pod(owner=world.sandbox())
        await world.look()
        assert world.said() == ("cold", "artifact_missing")
        assert world.restores() == {("cold_start", "artifact_missing"): 1.0}
        assert world.events() == [("Sandbox", "box", "Warning", "SandboxRestoreFallback")]
        assert repr(KEY) in world.messages()


@both_forms
async def test_a_cold_boot_beside_its_snapshot_has_another_reason(
    tmp_path: Path, form: Form
) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        await world.snapshot()
        world.sandboxer.restore_faults.append("vm.restore: no such memory")
        world.start_pod()
        await world.look()
        assert world.said() == ("cold", "not_restored")
        assert world.events() == [("Pod", "pod", "Warning", "SandboxRestoreFallback")]


@both_forms
async def test_a_second_session_of_a_single_use_snapshot_is_cold(
    tmp_path: Path, form: Form
) -> None:
    async with RestoreWorld(tmp_path, form, Config(lease="exclusive")) as world:
        await world.snapshot()
        for name in ("first", "second"):
            world.start_pod(name)
            await world.look(name, after_s=ROUND_S)
        assert world.said("first") == ("snapshot", None)
        assert world.said("second") == ("cold", "artifact_missing")
        assert "lease_mode" in world.messages()


@both_forms
async def test_a_bare_machine_is_no_restore(tmp_path: Path, form: Form) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        world.sandboxer.add_environment()
        world.start_pod()
        await world.look()
        assert world.said() == ("cold", "artifact_missing")


# --- whose business ------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize(
    "facts",
    [
        {"annotations": {}},
        {"labels": {names.TEMPLATE_SANDBOX: "true"}},
        {"annotations": {**INTENT, names.TEMPLATE_SANDBOX: "true"}},
    ],
    ids=["no-intent", "build-by-label", "build-by-annotation"],
)
async def test_other_pods_are_left_alone(tmp_path: Path, form: Form, facts: dict[str, Any]) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        world.start_pod(**facts)
        assert await world.look() is None
        assert world.said() == (None, None)
        assert not world.restores()


async def test_the_pods_of_other_nodes_are_not_seen(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        world.start_pod(node="node-b")
        assert await world.look() is None
        assert world.said() == (None, None)


async def test_a_pod_is_judged_when_it_runs(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        world.start_pod()
        pending = {"status": {"phase": "Pending"}}
        world.kube.cluster.merge(PODS, "pod", pending, namespace="team", subresource="status")
        assert await world.look() is None
        assert world.said() == (None, None)
        world.kube.cluster.merge(
            PODS, "pod", {"status": {"phase": "Running"}}, namespace="team", subresource="status"
        )
        await world.look()
        assert world.said() == ("cold", "artifact_missing")


# --- once ----------------------------------------------------------------------------------------


@both_forms
async def test_a_pod_is_judged_once_across_restarts_of_agentd(tmp_path: Path, form: Form) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        await world.snapshot()
        pod = world.start_pod()
        await world.look()
        world.sandboxer.end(world.sandboxer.of_pod(pod["metadata"]["uid"]))
        await world.end()
        await world.begin()
        for _ in range(3):
            assert await world.look() is None
        assert world.said() == ("snapshot", None)
        assert world.restores() == {("restore", ""): 1.0}
        assert len(world.events()) == 1


async def test_a_successor_of_the_same_name_is_judged_anew(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        world.start_pod()
        await world.look()
        world.kube.cluster.delete(PODS, "pod", namespace="team", grace_s=0)
        await world.look()
        await world.snapshot()
        world.start_pod()
        await world.look(after_s=ROUND_S)
        assert world.said() == ("snapshot", None)
        assert world.restores() == {("cold_start", "artifact_missing"): 1.0, ("restore", ""): 1.0}


async def test_a_write_whose_answer_was_lost_is_counted_once(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        world.start_pod()
        lost = UnavailableError("patch pods: connection reset")
        world.kube.fail_next("merge", lost, resource=PODS, is_done=True)
        with pytest.raises(UnavailableError):
            await world.look()
        assert world.said() == ("cold", "artifact_missing")
        assert not world.restores(), "whether it was written is not known yet"
        for _ in range(3):
            await world.look()
        assert world.restores() == {("cold_start", "artifact_missing"): 1.0}
        assert len(world.events()) == 1


async def test_a_write_that_failed_is_repeated_without_asking_again(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        world.start_pod()
        world.kube.fail_next("merge", UnavailableError("patch pods: 503"), resource=PODS)
        with pytest.raises(UnavailableError):
            await world.look()
        asked = world.node.grpc.calls.total()
        await world.look(after_s=ROUND_S)
        assert world.node.grpc.calls.total() == asked
        assert world.restores() == {("cold_start", "artifact_missing"): 1.0}


async def test_a_pod_that_changed_meanwhile_is_not_written_blindly(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        world.start_pod()
        await caught_up()
        world.kube.drop_watches()
        world.set_ready(False)
        with pytest.raises(ConflictError):
            await world.watch.reconcile(("team", "pod"))
        assert world.said() == (None, None)
        assert not world.restores()


# --- doubt ---------------------------------------------------------------------------------------


@both_forms
async def test_a_pod_that_is_not_listed_yet_is_asked_about_again(
    tmp_path: Path, form: Form
) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        await world.snapshot()
        pod = world.pod()
        delay_s = await world.look()
        assert delay_s is not None
        assert world.said() == (None, None)
        world.sandboxer.start(pod["metadata"]["uid"], INTENT, form)
        await world.look(after_s=delay_s)
        assert world.said() == ("snapshot", None)


@both_forms
async def test_doubt_ends_as_unknown_and_is_counted(tmp_path: Path, form: Form) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        world.pod()
        looks = 0
        while (delay_s := await world.look()) is not None:
            looks += 1
            world.clock_s += delay_s
        assert world.said() == ("unknown", "not_listed")
        assert world.restores() == {("unknown", "not_listed"): 1.0}
        assert world.events() == [], "nobody is told what nobody knows"
        assert world.clock_s >= GIVE_UP_S
        assert looks < 15


@both_forms
async def test_a_sandboxer_that_is_away_is_waited_for(tmp_path: Path, form: Form) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        await world.snapshot()
        world.start_pod()
        await world.node.stop()
        delay_s = await world.look()
        assert delay_s is not None
        await world.node.restart()
        again_s = await world.look(after_s=delay_s)
        assert again_s is not None, "it does not know its sandboxes yet"
        assert world.said() == (None, None)
        world.sandboxer.is_recovered = True
        await world.look(after_s=again_s)
        assert world.said() == ("snapshot", None)


@both_forms
async def test_a_sandboxer_that_stays_away_leaves_it_unknown(tmp_path: Path, form: Form) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        world.start_pod()
        await world.node.stop()
        await world.look()
        await world.look(after_s=GIVE_UP_S)
        assert world.said() == ("unknown", "sandboxer_unreachable")


async def test_a_sandboxer_that_was_replaced_by_one_of_another_form_is_asked_in_that(
    tmp_path: Path,
) -> None:
    async with RestoreWorld(tmp_path, Form.JSON) as world:
        await world.snapshot()
        world.start_pod("first")
        await world.look("first")
        world.start_pod("second")
        await world.node.restart(Form.GRPC)
        world.sandboxer.is_recovered = True
        delay_s = await world.look("second", after_s=ROUND_S)
        if delay_s is not None:
            await world.look("second", after_s=delay_s)
        assert world.said("second") == ("snapshot", None)


async def test_nonsense_is_a_doubt(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.JSON) as world:
        world.start_pod()
        await world.access.client()
        world.node.json.faults.calls.append(b'{"ok": true, "sandboxes": 7}\n')
        delay_s = await world.look()
        assert delay_s is not None
        await world.look(after_s=delay_s)
        assert world.said() == ("cold", "artifact_missing")


async def test_a_store_that_cannot_be_asked_costs_only_the_reason(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        world.start_pod()
        await world.access.client()
        world.node.grpc.faults.calls.extend([None, Abort("the store is on fire")])
        await world.look()
        assert world.said() == ("cold", "cause_unknown")
        assert "on fire" in world.messages()


# --- pacing --------------------------------------------------------------------------------------


class Slow:
    """A snapshot that takes until it is let go."""

    def __init__(self, world: RestoreWorld) -> None:
        self.is_going_on = asyncio.Event()
        self.may_end = asyncio.Event()
        world.sandboxer.pausing = self._pausing

    async def _pausing(self, _sandbox: Sandbox) -> None:
        self.is_going_on.set()
        await self.may_end.wait()


@both_forms
async def test_sandboxes_are_never_listed_while_a_snapshot_is_made(
    tmp_path: Path, form: Form
) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        slow = Slow(world)

        async def build() -> None:
            sandbox = world.sandboxer.run("build-uid")
            client = await world.access.client()
            async with world.access.turn:
                pod = PodRef("build-uid", "team", "build", sandbox.id)
                await client.create(pod, KEY, SnapshotMode.FORK)

        building = asyncio.create_task(build())
        await slow.is_going_on.wait()
        world.start_pod()
        for _ in range(5):
            assert await world.look(after_s=60.0) == ROUND_S
        assert world.sandboxer.stalls == 0
        assert world.said() == (None, None)
        slow.may_end.set()
        await building
        await world.look()
        assert world.said()[0] == "cold", "waiting for its turn is no doubt"


async def test_a_snapshot_that_was_promised_the_turn_goes_first(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        world.start_pod()
        await world.access.client()
        turn, done = world.access.turn, asyncio.Event()

        async def build() -> None:
            async with turn:
                await done.wait()

        await turn.acquire()
        building = asyncio.create_task(build())
        await caught_up()
        turn.release()  # free for a moment, and the builder's already
        assert await world.watch.reconcile(("team", "pod")) == ROUND_S
        done.set()
        await building
        await world.look()
        assert world.said()[0] == "cold"


@both_forms
async def test_one_list_serves_all_who_wait(tmp_path: Path, form: Form) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        await world.snapshot()
        pods = [f"pod-{number}" for number in range(20)]
        for name in pods:
            world.start_pod(name)
        await caught_up()
        lists = CountLists(world)
        await asyncio.gather(*(world.watch.reconcile(("team", name)) for name in pods))
        assert {world.said(name) for name in pods} == {("snapshot", None)}
        assert lists.count == 1
        assert world.restores() == {("restore", ""): 20.0}


class CountLists:
    """Counts what is asked of the sandboxer."""

    def __init__(self, world: RestoreWorld) -> None:
        self.count = 0
        self._listed = world.sandboxer.listed
        world.sandboxer.listed = self._count  # type: ignore[method-assign]

    async def _count(self) -> list[Sandbox]:
        self.count += 1
        return await self._listed()


async def test_lists_are_rounds_apart_however_often_a_pod_changes(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        world.pod()
        lists = CountLists(world)
        for _ in range(10):
            await world.look()
        assert lists.count == 1
        await world.look(after_s=ROUND_S)
        assert lists.count == 2


async def test_a_list_that_is_cancelled_gives_the_turn_back(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        world.start_pod()
        await caught_up()
        await world.access.client()
        world.node.grpc.faults.calls.append("hang")
        looking = asyncio.create_task(world.watch.reconcile(("team", "pod")))
        while world.node.grpc.faults.calls:  # noqa: ASYNC110 - its test has a time-out
            await asyncio.sleep(0.01)
        assert world.access.turn.locked()
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        assert not world.access.turn.locked()
        await world.look()
        assert world.said()[0] == "cold"


async def test_nothing_is_kept_of_pods_that_are_settled_or_gone(tmp_path: Path) -> None:
    async with RestoreWorld(tmp_path, Form.GRPC) as world:
        await world.snapshot()
        world.start_pod("restored")
        world.pod("in-doubt")
        world.start_pod("cold", annotations={names.KUASAR_TEMPLATE_KEY: "another-key-1"})
        for name in ("restored", "in-doubt", "cold", "restored", "cold"):
            await world.look(name)
        notes = world.watch._notes
        assert {name for _, name in notes} == {"in-doubt", "cold"}
        for name in ("in-doubt", "cold"):
            world.kube.cluster.delete(PODS, name, namespace="team", grace_s=0)
            await world.look(name)
        assert not notes


# --- as agentd runs it ---------------------------------------------------------------------------


@both_forms
async def test_pods_are_judged_as_they_come(tmp_path: Path, form: Form) -> None:
    async with RestoreWorld(tmp_path, form) as world:
        await world.snapshot()
        running = asyncio.create_task(world.watch.run())
        try:
            world.start_pod("first")
            await until_said(world, "first")
            world.clock_s += ROUND_S
            world.start_pod("second")
            await until_said(world, "second")
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        assert world.restores() == {("restore", ""): 2.0}


async def until_said(world: RestoreWorld, name: str) -> None:
    while world.said(name) != ("snapshot", None):  # noqa: ASYNC110 - its test has a time-out
        await asyncio.sleep(0.01)
