"""Pods on a virtual node, on fake machines."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from agentd.engine.held import HeldState
from agentd.engine.plans import Need
from agentd.node.addresses import Addresses
from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.errors import NotFoundError, UnavailableError
from controlplane.kube.resource import CONFIG_MAPS, LEASES, NODES, PODS, RUNTIME_CLASSES
from tests.adapters.node.world import (
    KEY,
    SANDBOXES,
    World,
    condition,
    new_cluster,
    running_world,
)
from tests.fakes.daemon import make_image

# A network of its own, so that no other test's Pods listen at its addresses.
SERVED = {"pod_cidr": "127.88.2.0/24"}
GATE = {"env": [{"name": "AGENTCUBE_SESSION_GATE", "value": "true"}]}


def pid_of(world: World) -> int:
    session = world.engine.sessions.list()[0]
    assert session.machine is not None
    return session.machine.vm.record.pid


async def until_gone(world: World, name: str) -> None:
    def is_gone() -> bool:
        try:
            world.get(PODS, name)
        except NotFoundError:
            return True
        return False

    await world.until(is_gone)


async def ask(address: str, port: int) -> bytes:
    """One request over a connection that may have to be tried again."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(address, port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
            continue
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


async def build_artifact(world: World) -> None:
    """A build Pod, and the task that makes it an artifact."""
    snapshot = world.snapshot()
    sandbox = world.build_sandbox(snapshot)
    world.pod("build-1", owner=sandbox, container=GATE)
    await world.until_ready("build-1")
    world.task(snapshot)
    await world.until_task("Ready")


# -- the node -------------------------------------------------------------------------------------


async def test_the_node_is_registered_with_label_taint_lease_and_provider(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster(), labels={"zone": "x"}) as world:
        label = names.provider_label("snapstart.qemu.org")
        await world.until(lambda: world.get(NODES, "node-a")["metadata"]["labels"][label] == "true")
        node = world.get(NODES, "node-a")
        assert node["metadata"]["labels"][names.VIRTUAL_NODE] == "true"
        assert node["metadata"]["labels"]["zone"] == "x"
        taint = {"key": names.VIRTUAL_NODE, "value": "true", "effect": "NoSchedule"}
        assert taint in node["spec"]["taints"]
        assert condition(node, "Ready") == "True"
        assert {"cpu", "memory", "pods"} <= set(node["status"]["allocatable"])

        def leases() -> set[str]:
            return {one["metadata"]["name"] for one in world.kube.cluster.objects(LEASES)}

        await world.until(lambda: leases() == {"node-a", names.agent_lease("node-a")})
    kept = world.get(NODES, "node-a")["metadata"]["labels"]
    assert label not in kept, "a clean stop takes the provider's label away"


async def test_a_kubelets_node_of_that_name_is_left_alone(tmp_path: Path) -> None:
    kube = new_cluster()
    kube.cluster.create(NODES, {"metadata": {"name": "node-a"}})
    async with running_world(tmp_path, kube) as world:
        await world.until(lambda: world.trace.has("node.failed"))
        assert "labels" not in world.get(NODES, "node-a")["metadata"]


async def test_a_kubelets_node_is_not_said_to_snapshot_machines(tmp_path: Path) -> None:
    kube = new_cluster()
    label = names.provider_label("snapstart.qemu.org")
    kube.cluster.create(NODES, {"metadata": {"name": "node-a", "labels": {label: "true"}}})
    async with running_world(tmp_path, kube, virtual=False) as world:
        await world.until(lambda: label not in world.get(NODES, "node-a")["metadata"]["labels"])
        assert not world.trace.has("node.failed")


async def test_a_node_that_is_registered_anew_owns_the_leases_again(tmp_path: Path) -> None:
    """Leases of a Node that is gone are garbage: renewing them would keep nothing alive."""
    async with running_world(tmp_path, new_cluster()) as world:

        def owners() -> set[str]:
            leases = world.kube.cluster.objects(LEASES)
            return {one["metadata"]["ownerReferences"][0]["uid"] for one in leases}

        await world.until(lambda: len(world.kube.cluster.objects(LEASES)) == 2)
        node = world.get(NODES, "node-a")
        assert owners() == {node["metadata"]["uid"]}
        world.kube.cluster.delete(NODES, "node-a")
        world.kube.cluster.collect_garbage()
        kept = {"name": "node-a", "labels": node["metadata"]["labels"]}
        world.kube.cluster.create(NODES, {"metadata": kept})
        uid = world.get(NODES, "node-a")["metadata"]["uid"]

        def is_owned() -> bool:
            world.kube.cluster.collect_garbage()
            return owners() == {uid}

        await world.until(is_owned)


# -- starting -------------------------------------------------------------------------------------


async def test_a_pod_becomes_ready_when_its_guest_has_taken_on_its_identity(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.make(CONFIG_MAPS, "conf", data={"mode": "fast"})
        variables = [
            {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "mode"}}},
            {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "BOTH", "value": "$(MODE)-$(ME)"},
        ]
        world.pod("one", container={"env": variables})
        pod = await world.until_ready("one")
        status = pod["status"]
        assert status["phase"] == "Running"
        assert condition(pod, "ContainersReady") == condition(pod, "Initialized") == "True"
        container = status["containerStatuses"][0]
        assert container["containerID"].startswith("snapstart://p-")
        assert (container["ready"], container["restartCount"]) == (True, 0)
        assert "running" in container["state"]
        assert status["podIPs"] == [{"ip": status["podIP"]}]
        session = world.engine.sessions.list()[0]
        assert session.facts.hostname == "one"
        prepare = (tmp_path / "run/vms" / session.id / "prepare").read_text()
        assert '"BOTH":"fast-one"' in prepare
        await world.until(
            lambda: world.get(PODS, "one")["metadata"]["annotations"][names.STARTED_FROM] == "cold"
        )


async def test_connections_to_its_address_reach_the_guest(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster(), pod_cidr="127.88.1.0/24") as world:
        world.pod("one", container={"ports": [{"containerPort": 18080}]})
        address = (await world.until_ready("one"))["status"]["podIP"]
        answer = await ask(address, 18080)
        assert answer.startswith(b"HTTP/1.1 207")
        assert answer.endswith(b"GET /health HTTP/1.1")


async def test_a_pod_that_no_machine_can_be_fails_with_the_reason(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("bad", container={"command": ["sleep", "1"]})
        await world.until(lambda: world.get(PODS, "bad")["status"]["phase"] == "Failed")
        status = world.get(PODS, "bad")["status"]
        assert status["reason"] == "SnapStartUnsupported"
        assert "command" in status["message"]
        assert world.machines() == []


async def test_a_foreign_runtime_class_is_refused_and_ours_is_not(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.make(RUNTIME_CLASSES, "runc", handler="runc")
        world.make(RUNTIME_CLASSES, "snapstart", handler="snapstart")
        world.pod("bad", runtimeClassName="runc")
        world.pod("good", runtimeClassName="snapstart")
        await world.until(lambda: world.get(PODS, "bad")["status"]["phase"] == "Failed")
        await world.until_ready("good")


async def test_an_unknown_image_waits_and_is_never_pulled(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("one", container={"image": "docker.io/library/python:3"})

        def waiting() -> str:
            status = world.get(PODS, "one")["status"]["containerStatuses"][0]
            return str(status["state"]["waiting"]["reason"])

        await world.until(lambda: waiting() == "ErrImageNeverPull")
        assert world.get(PODS, "one")["status"]["phase"] == "Pending"


async def test_of_several_images_none_is_guessed(tmp_path: Path) -> None:
    keys = ["0" * 64, "1" * 64]
    async with running_world(tmp_path, new_cluster()) as world:
        make_image(tmp_path / "i" / "images" / keys[1], keys[1])
        world.pod("one")

        def waiting() -> JsonObject:
            status = world.get(PODS, "one")["status"]["containerStatuses"][0]
            found: JsonObject = status["state"]["waiting"]
            return found

        await world.until(lambda: waiting()["reason"] == "ErrImageNeverPull")
        assert "could be any of 2 images" in waiting()["message"]
        assert "node.images" in waiting()["message"]
        assert world.machines() == []
    named = {"snapstart.local/python": keys[1]}
    async with running_world(tmp_path, new_cluster(), images=named) as world:
        world.pod("two")
        status = (await world.until_ready("two"))["status"]
        assert status["containerStatuses"][0]["imageID"].endswith(keys[1])


# -- forks ----------------------------------------------------------------------------------------


async def test_a_build_is_held_sealed_by_its_task_and_forked(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        await build_artifact(world)
        assert world.engine.held.list() == []
        artifact = world.engine.templates.get(KEY)
        assert artifact.snapshot is not None
        assert artifact.snapshot.namespace == "team"
        build = world.get(PODS, "build-1")["status"]
        assert build["phase"] == "Running", "its Sandbox is not to look failed"
        assert build["containerStatuses"][0]["state"]["terminated"]["reason"] == "Captured"
        sandbox = world.make(SANDBOXES, "session-1", spec={"podTemplate": {"spec": {}}})
        world.pod("session-1", owner=sandbox, key=KEY)
        await world.until_ready("session-1")
        assert [one.facts.template for one in world.engine.sessions.list()] == [KEY]
        await world.until(lambda: "SandboxRestoredFromSnapshot" in world.events())


async def test_a_build_is_ready_while_its_gate_is_closed(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("build-1", owner=world.build_sandbox(world.snapshot()), container=GATE)
        await world.until_ready("build-1")
        assert [one.state for one in world.engine.held.list()] == [HeldState.WAITING]
        assert world.engine.sessions.list() == []
        world.kube.cluster.delete(PODS, "build-1", namespace="team", grace_s=5)
        await until_gone(world, "build-1")
        assert (world.engine.held.list(), world.machines()) == ([], [])


async def test_a_build_whose_machine_dies_fails_and_is_not_restarted(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("build-1", owner=world.build_sandbox(world.snapshot()), container=GATE)
        await world.until_ready("build-1")
        held = world.engine.held.list()[0].machine
        assert held is not None
        os.kill(held.vm.record.pid, signal.SIGKILL)
        await world.until(lambda: world.get(PODS, "build-1")["status"]["phase"] == "Failed")
        assert (world.engine.held.list(), world.machines()) == ([], [])
        assert world.engine.machines.reserved_bytes == 0


async def test_a_held_build_does_not_outlive_its_agent(tmp_path: Path) -> None:
    kube = new_cluster()
    async with running_world(tmp_path, kube) as world:
        world.pod("build-1", owner=world.build_sandbox(world.snapshot()), container=GATE)
        await world.until_ready("build-1")
    assert world.machines() == []
    async with running_world(tmp_path, kube) as world:
        await world.until(lambda: world.get(PODS, "build-1")["status"]["phase"] == "Failed")
        assert "away" in world.get(PODS, "build-1")["status"]["message"]


async def test_a_captured_build_stays_so_under_the_next_agent(tmp_path: Path) -> None:
    kube = new_cluster()
    async with running_world(tmp_path, kube) as world:
        await build_artifact(world)
        await world.until(lambda: condition(world.get(PODS, "build-1"), "Ready") == "False")
        before = world.get(PODS, "build-1")["status"]
    async with running_world(tmp_path, kube) as world:
        await world.until(lambda: world.trace.has("node.ready"))
        await asyncio.sleep(0.2)
        assert world.get(PODS, "build-1")["status"] == before


async def test_a_full_node_makes_a_pod_wait_not_fail(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        machines = world.engine.machines
        machines.promise("other", Need(machines.limits.memory_bytes), force=True)
        world.pod("one")
        await world.until(lambda: world.trace.has("pod.start.failed"))
        await world.until(lambda: world.get(PODS, "one")["status"]["phase"] == "Pending")
        machines.withdraw("other")


async def test_the_gate_variable_alone_makes_no_build(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        sandbox = world.make(SANDBOXES, "session-1", spec={"podTemplate": {"spec": {}}})
        world.pod("session-1", owner=sandbox, container=GATE)
        await world.until_ready("session-1")
        assert world.engine.held.list() == []
        assert len(world.engine.sessions.list()) == 1


async def test_a_key_of_another_namespace_starts_cold_and_says_so(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        await build_artifact(world)
        wanted = {names.SNAPSHOT_KEY: KEY}
        world.pod("thief", metadata={"namespace": "other", "annotations": wanted})

        def pod() -> JsonObject:
            return world.kube.cluster.get(PODS, "thief", "other")

        await world.until(lambda: condition(pod(), "Ready") == "True")
        await world.until(lambda: names.STARTED_FROM_REASON in pod()["metadata"]["annotations"])
        assert pod()["metadata"]["annotations"][names.STARTED_FROM_REASON] == "wrong_namespace"
        await world.until(lambda: "SandboxRestoreFallback" in world.events())


async def test_a_fork_that_fails_is_followed_by_a_cold_start(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        await build_artifact(world)
        world.vmm.faults.add("no_fork")
        world.pod("one", key=KEY)
        await world.until_ready("one")
        assert world.engine.sessions.list()[0].facts.labels["reason"] == "restore_failed"


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["Never", "OnFailure", "Always"])
async def test_a_machine_that_dies_is_restarted_as_the_policy_says(
    tmp_path: Path, policy: str
) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("one", restartPolicy=policy)
        await world.until_ready("one")
        os.kill(pid_of(world), signal.SIGKILL)
        if policy == "Never":
            await world.until(lambda: world.get(PODS, "one")["status"]["phase"] == "Failed")
            state = world.get(PODS, "one")["status"]["containerStatuses"][0]["state"]
            assert state["terminated"]["exitCode"] == 137
            return

        def waiting() -> str:
            status = world.get(PODS, "one")["status"]["containerStatuses"][0]
            return str(status["state"]["waiting"]["reason"])

        await world.until(lambda: waiting() == "CrashLoopBackOff")
        assert condition(world.get(PODS, "one"), "Ready") == "False"


async def test_deletion_ends_the_machine_then_the_object(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("one")
        await world.until_ready("one")
        world.kube.cluster.delete(PODS, "one", namespace="team", grace_s=30)
        await until_gone(world, "one")
        assert (world.engine.sessions.list(), world.machines()) == ([], [])


async def test_a_pod_that_vanished_takes_its_machine_along(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("one")
        await world.until_ready("one")
        world.kube.cluster.delete(PODS, "one", namespace="team", grace_s=0)
        await world.until(lambda: world.machines() == [])


async def test_a_pod_made_again_under_its_name_gets_a_machine_of_its_own(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("one")
        await world.until_ready("one")
        first = world.engine.sessions.list()[0].id
        world.kube.partition()
        world.kube.cluster.delete(PODS, "one", namespace="team", grace_s=0)
        world.pod("one")
        world.kube.heal()
        await world.until_ready("one")
        assert [one.id for one in world.engine.sessions.list()] != [first]
        assert len(world.machines()) == 1


# -- restarts of agentd ---------------------------------------------------------------------------


@pytest.mark.restarts
async def test_defect_68_a_restarted_agent_adopts_the_machine_and_starts_no_second(
    tmp_path: Path,
) -> None:
    kube = new_cluster()
    async with running_world(tmp_path, kube, ends_sessions=False) as world:
        world.pod("one")
        before = await world.until_ready("one")
        machines, pid = world.machines(), pid_of(world)
    async with running_world(tmp_path, kube) as world:
        await world.until(lambda: world.trace.has("node.ready"))
        await world.until(lambda: len(world.engine.sessions.list()) == 1)
        world.make(CONFIG_MAPS, "nudge")
        await asyncio.sleep(0.1)
        assert (world.machines(), pid_of(world)) == (machines, pid)
        after = world.get(PODS, "one")["status"]
        assert after["containerStatuses"] == before["status"]["containerStatuses"]
        assert after["podIP"] == before["status"]["podIP"]


@pytest.mark.restarts
@pytest.mark.parametrize("is_slow", [False, True])
async def test_a_pod_that_runs_is_never_said_to_wait_when_its_agent_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    add = Addresses.add

    async def add_slowly(self: Addresses, address: str) -> None:
        await asyncio.sleep(0.3)
        await add(self, address)

    kube = new_cluster()
    async with running_world(tmp_path, kube, ends_sessions=False) as world:
        world.pod("one")
        await world.until_ready("one")
    writes = kube.client.counts["merge", PODS.plural]
    if is_slow:
        monkeypatch.setattr(Addresses, "add", add_slowly)
    async with running_world(tmp_path, kube) as world:
        await world.until(lambda: world.trace.has("node.ready"))
        await world.until(lambda: len(world.engine.sessions.list()) == 1)
        await asyncio.sleep(0.5)
        assert condition(world.get(PODS, "one"), "Ready") == "True"
        assert kube.client.counts["merge", PODS.plural] == writes


@pytest.mark.restarts
async def test_a_machine_that_died_while_agentd_was_away_fails_its_pod(tmp_path: Path) -> None:
    kube = new_cluster()
    async with running_world(tmp_path, kube, ends_sessions=False) as world:
        world.pod("one", restartPolicy="Never")
        await world.until_ready("one")
        pid = pid_of(world)
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, pid, 0)
    async with running_world(tmp_path, kube) as world:
        await world.until(lambda: world.get(PODS, "one")["status"]["phase"] == "Failed")
        assert world.machines() == []


@pytest.mark.restarts
async def test_machines_of_pods_that_went_meanwhile_are_ended(tmp_path: Path) -> None:
    kube = new_cluster()
    async with running_world(tmp_path, kube, ends_sessions=False) as world:
        world.pod("one")
        await world.until_ready("one")
    kube.cluster.delete(PODS, "one", namespace="team", grace_s=0)
    async with running_world(tmp_path, kube) as world:
        await world.until(lambda: world.machines() == [])


@pytest.mark.restarts
async def test_a_restarted_agent_serves_addresses_without_an_api_server(tmp_path: Path) -> None:
    kube = new_cluster()
    async with running_world(tmp_path, kube, ends_sessions=False, **SERVED) as world:
        world.pod("one", container={"ports": [{"containerPort": 18081}]})
        address = (await world.until_ready("one"))["status"]["podIP"]
    kube.partition()
    async with running_world(tmp_path, kube, **SERVED) as world:
        await world.until(lambda: world.trace.has("node.failed"))
        assert (await ask(address, 18081)).startswith(b"HTTP/1.1 207")
        reader, writer = await asyncio.open_connection(address, 18081)
        writer.write(b"GET /health HTTP/1.1\r\n")
        kube.heal()
        await world.until(lambda: world.trace.has("node.ready"))
        await world.until(lambda: len(world.engine.sessions.list()) == 1)
        writer.write(b"Host: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 207"), "a request in flight is answered"
        writer.close()
        assert (await ask(address, 18081)).startswith(b"HTTP/1.1 207")


async def test_connections_outlive_a_failure_of_the_agents_work(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster(), **SERVED) as world:
        world.pod("one", container={"ports": [{"containerPort": 18081}]})
        address = (await world.until_ready("one"))["status"]["podIP"]
        reader, writer = await asyncio.open_connection(address, 18081)
        writer.write(b"GET /health HTTP/1.1\r\n")
        world.trace.steps.clear()
        world.kube.cluster.delete(NODES, "node-a")
        world.make(NODES, "node-a", metadata={"labels": {names.VIRTUAL_NODE: "true"}})
        await world.until(lambda: world.trace.has("node.failed"))
        await world.until(lambda: world.trace.has("node.ready"))
        writer.write(b"Host: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 207")
        writer.close()


async def test_nobody_listens_at_the_address_of_a_pod_that_is_gone(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster(), **SERVED) as world:
        world.pod("one", container={"ports": [{"containerPort": 18081}]})
        address = (await world.until_ready("one"))["status"]["podIP"]
        world.kube.cluster.delete(PODS, "one", namespace="team")
        await until_gone(world, "one")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address, 18081)


async def test_without_an_api_server_machines_run_on(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("one")
        await world.until_ready("one")
        world.kube.partition()
        await asyncio.sleep(0.1)
        assert len(world.engine.sessions.list()) == 1
        world.kube.heal()


async def test_a_failed_status_write_is_repeated(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.kube.fail_next("merge", UnavailableError("away"), 3, resource=PODS)
        world.pod("one")
        await world.until_ready("one")


async def test_nothing_is_written_while_nothing_changes(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        world.pod("one")
        await world.until_ready("one")
        await asyncio.sleep(0.3)
        before = world.kube.writes
        world.kube.drop_watches()
        await asyncio.sleep(0.5)
        assert world.kube.writes == before
