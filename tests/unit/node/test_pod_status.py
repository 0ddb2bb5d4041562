"""A Pod's status, as a kubelet would write it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from agentd.node.addresses import choose_address, parse_network
from agentd.node.node_object import (
    NodeFacts,
    is_same_status,
    is_virtual,
    new_node,
    node_status,
    plan_repair,
)
from agentd.node.pod_memory import derive_machine_id, remember
from agentd.node.pod_spec import Refusal
from agentd.node.pod_status import (
    PodView,
    Stage,
    Termination,
    choose_backoff_s,
    choose_restart,
    make_status,
    needs_write,
    refused_status,
)
from agentd.node.pod_types import Pod
from agentd.node.provider_labels import plan_labels
from controlplane.api import names

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 1, 1, 13, tzinfo=UTC)
DEAD = Termination("p-1", 137, "Error", "it died", NOW, LATER)
GOOD = replace(DEAD, exit_code=0, reason="Captured")
VIEW = PodView(Stage.READY, "p-1", "image", NOW, pod_ip="127.88.0.1", host_ip="10.0.0.1")


def pod(status: dict[str, Any] | None = None, **spec: Any) -> Pod:
    return msgspec.convert(
        {
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "main", "image": "i"}], **spec},
            "status": status or {},
        },
        Pod,
        strict=False,
    )


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {one["type"]: one["status"] for one in status["conditions"]}


@pytest.mark.parametrize(
    ("view", "phase", "state", "is_ready"),
    [
        (PodView(Stage.WAITING), "Pending", "waiting", False),
        (PodView(Stage.STARTING), "Pending", "waiting", False),
        (VIEW, "Running", "running", True),
        (replace(VIEW, stage=Stage.WAITING, ended=DEAD), "Running", "waiting", False),
        (replace(VIEW, stage=Stage.CAPTURED, ended=GOOD), "Running", "terminated", False),
        (replace(VIEW, stage=Stage.ENDED, ended=DEAD), "Failed", "terminated", False),
        (replace(VIEW, stage=Stage.ENDED, ended=GOOD), "Succeeded", "terminated", False),
    ],
    ids=["waiting", "starting", "ready", "crashed", "captured", "failed", "succeeded"],
)
def test_phase_and_state_follow_the_machine(
    view: PodView, phase: str, state: str, is_ready: bool
) -> None:
    status = make_status(pod(), view, NOW)
    container = status["containerStatuses"][0]
    assert (status["phase"], list(container["state"])) == (phase, [state])
    assert container["ready"] is is_ready
    assert conditions(status)["Ready"] == conditions(status)["ContainersReady"] == str(is_ready)
    assert conditions(status)["Initialized"] == "True"


def test_a_restarted_container_shows_how_the_last_one_ended() -> None:
    status = make_status(pod(), replace(VIEW, ended=DEAD, restarts=2), NOW)
    container = status["containerStatuses"][0]
    assert container["restartCount"] == 2
    assert container["lastState"]["terminated"]["exitCode"] == 137


def test_conditions_of_others_stay_and_times_move_only_with_the_status() -> None:
    first = make_status(
        pod({"conditions": [{"type": "PodScheduled", "status": "True"}]}), VIEW, NOW
    )
    assert conditions(first)["PodScheduled"] == "True"
    again = make_status(pod(first), VIEW, LATER)
    assert again == first
    assert not needs_write(pod(first), again)
    changed = make_status(pod(first), replace(VIEW, stage=Stage.ENDED, ended=DEAD), LATER)
    since = {one["type"]: one.get("lastTransitionTime") for one in changed["conditions"]}
    assert since["Ready"] == "2026-01-01T13:00:00Z"
    assert since["Initialized"] == "2026-01-01T12:00:00Z"


def test_a_readiness_gate_keeps_the_pod_unready() -> None:
    gates = [{"conditionType": "example.org/gate"}]
    status = make_status(pod(readinessGates=gates), VIEW, NOW)
    assert (conditions(status)["Ready"], conditions(status)["ContainersReady"]) == ("False", "True")
    opened = {"conditions": [{"type": "example.org/gate", "status": "True"}]}
    assert conditions(make_status(pod(opened, readinessGates=gates), VIEW, NOW))["Ready"] == "True"


def test_a_refused_pod_has_failed() -> None:
    status = refused_status(pod(), Refusal("Because", "of that"), NOW)
    assert (status["phase"], status["reason"], status["message"]) == (
        "Failed",
        "Because",
        "of that",
    )


@pytest.mark.parametrize(
    ("policy", "exit_code", "is_followed"),
    [
        ("Always", 0, True), ("Always", 1, True), ("OnFailure", 0, False),
        ("OnFailure", 1, True), ("Never", 0, False), ("Never", 1, False),
    ],
)  # fmt: skip
def test_the_restart_policy_decides(policy: str, exit_code: int, is_followed: bool) -> None:
    assert choose_restart(policy, exit_code) is is_followed


def test_restarts_back_off_as_a_kubelets() -> None:
    assert [choose_backoff_s(n) for n in (0, 1, 2, 5, 50)] == [10, 20, 40, 300, 300]


@pytest.mark.parametrize(
    "view",
    [
        replace(VIEW, restarts=3),
        replace(VIEW, stage=Stage.CAPTURED, ended=GOOD),
        replace(VIEW, stage=Stage.WAITING, ended=DEAD, restarts=1),
    ],
    ids=["running", "captured", "crashed"],
)
def test_a_successor_reads_back_what_was_written(view: PodView) -> None:
    known = remember(pod(make_status(pod(), view, NOW)))
    assert (known["machine_id"], known["restarts"]) == ("p-1", view.restarts)
    assert ("stage" in known) is (view.stage is Stage.CAPTURED)


def test_a_pod_that_never_ran_is_remembered_as_nothing() -> None:
    assert remember(pod()) == {}


def test_machines_of_one_pod_have_ids_of_their_own() -> None:
    ids = {derive_machine_id(uid, n) for uid in ("a", "b") for n in (0, 1)}
    assert len(ids) == 4
    assert all(len(one) == len("s-0123456789abcdef") for one in ids)


# -- addresses ------------------------------------------------------------------------------------


def test_the_lowest_free_address_is_given() -> None:
    network = parse_network("127.88.0.0/30")
    assert choose_address(network, set()) == "127.88.0.1"
    assert choose_address(network, {"127.88.0.1"}) == "127.88.0.2"
    with pytest.raises(Exception, match="all of 127"):
        choose_address(network, {"127.88.0.1", "127.88.0.2"})


# -- the Node -------------------------------------------------------------------------------------

FACTS = NodeFacts(
    "n", "10.0.0.1", 2, 2**30, 8, "amd64", "6.1", "Debian", "m", "b", "qemu", "1", {"zone": "x"}
)


def test_a_node_of_ours_is_repaired_and_a_kubelets_is_not_ours() -> None:
    node = new_node(FACTS)
    assert is_virtual(node)
    assert plan_repair(node, FACTS) is None
    foreign = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
    patch = plan_repair({"metadata": {"labels": {}}, "spec": {"taints": [foreign]}}, FACTS)
    assert patch is not None
    assert patch["metadata"]["labels"][names.VIRTUAL_NODE] == "true"
    assert [taint["key"] for taint in patch["spec"]["taints"]] == [
        "node.kubernetes.io/not-ready",
        names.VIRTUAL_NODE,
    ]
    assert not is_virtual({"metadata": {"name": "n"}})


def test_a_node_says_when_its_engine_is_gone() -> None:
    good = node_status(FACTS, {}, "", NOW)
    assert is_same_status(good, node_status(FACTS, good, "", LATER))
    bad = node_status(FACTS, good, "no QEMU", LATER)
    assert not is_same_status(good, bad)
    ready = next(one for one in bad["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["message"]) == ("False", "no QEMU")
    assert ready["lastTransitionTime"] == "2026-01-01T13:00:00Z"


def test_defect_67_labels_are_exactly_the_providers_that_work() -> None:
    old = names.provider_label("old.example.org")
    mine = names.provider_label("snapstart.qemu.org")
    assert plan_labels({old: "true", "a": "b"}, frozenset({"snapstart.qemu.org"})) == {
        mine: "true",
        old: None,
    }
    assert plan_labels({mine: "true"}, frozenset({"snapstart.qemu.org"})) == {}
    assert plan_labels({mine: "true"}, frozenset()) == {mine: None}
