"""A Pod says whether it was to be restored, whether it runs, where its guest is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from agentd.node.restore_pods import SessionPod
from controlplane.api import names

INTENT = {names.SNAPSHOT_KEY: "key-1"}


def make(**body: Any) -> SessionPod:
    metadata = {"name": "p", "namespace": "team", "uid": "u1", **body.pop("metadata", {})}
    return msgspec.convert({"metadata": metadata, **body}, SessionPod, strict=False)


def annotated(annotations: dict[str, str], **metadata: Any) -> SessionPod:
    return make(metadata={"annotations": annotations, **metadata})


def running(**status: Any) -> SessionPod:
    return make(status={"phase": "Running", **status})


def test_either_annotation_is_an_intent() -> None:
    assert annotated(INTENT).restore_key == "key-1"
    assert annotated({names.KUASAR_TEMPLATE_KEY: "key-2"}).restore_key == "key-2"
    assert make().restore_key == ""


def test_the_sandboxers_own_selector_decides_as_it_does_there() -> None:
    both = {**INTENT, names.KUASAR_TEMPLATE_KEY: "key-2"}
    assert annotated(both).restore_key == "key-2"


@pytest.mark.parametrize("where", ["labels", "annotations"])
def test_a_build_is_never_a_session(where: str) -> None:
    mark = {names.TEMPLATE_SANDBOX: "true"}
    metadata: dict[str, Any] = {"annotations": dict(INTENT)}
    metadata.setdefault(where, {}).update(mark)
    assert make(metadata=metadata).restore_key == ""


def test_a_pod_that_ends_keeps_no_sandbox() -> None:
    assert running().is_running
    assert not make(status={"phase": "Pending"}).is_running
    assert not make(status={"phase": "Succeeded"}).is_running
    gone = make(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}, status={"phase": "Running"})
    assert not gone.is_running


def test_only_the_ready_condition_makes_it_ready() -> None:
    def conditions(kind: str, status: str) -> list[dict[str, str]]:
        return [{"type": kind, "status": status}]

    assert running(conditions=conditions("Ready", "True")).is_ready
    assert not running(conditions=conditions("Ready", "False")).is_ready
    assert not running(conditions=conditions("Initialized", "True")).is_ready
    assert not running().is_ready


def test_it_started_with_the_last_container_that_runs() -> None:
    def state(second: int) -> dict[str, Any]:
        return {"state": {"running": {"startedAt": f"2026-01-01T00:00:0{second}Z"}}}

    waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    found = running(containerStatuses=[state(1), waiting, state(3)]).started_at
    assert found == datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC)
    assert running(containerStatuses=[waiting]).started_at is None
    assert running().started_at is None


def with_ports(*ports: dict[str, Any], ip: str = "10.0.0.7", **spec: Any) -> SessionPod:
    containers = [{"name": "main", "ports": list(ports)}, {"ports": [{"containerPort": 1}]}]
    return make(spec={"containers": containers, **spec}, status={"podIP": ip})


def test_the_guest_is_at_the_first_tcp_port_of_the_first_container() -> None:
    dns = {"containerPort": 53, "protocol": "UDP"}
    assert with_ports(dns, {"containerPort": 9000}).guest == ("10.0.0.7", 9000)
    assert with_ports(dns).guest == ("10.0.0.7", 8080)
    assert with_ports().guest == ("10.0.0.7", 8080)
    assert make(status={"podIP": "fd00::7"}).guest == ("fd00::7", 8080)


@pytest.mark.parametrize("ip", ["", "metadata.internal", "10.0.0.7/..", "10.0.0.7:80"])
def test_nothing_but_an_address_is_ever_connected_to(ip: str) -> None:
    assert with_ports(ip=ip).guest is None


def test_what_listens_on_the_nodes_own_address_is_no_guest() -> None:
    assert with_ports(hostNetwork=True).guest is None


def test_events_go_to_the_sandbox_that_controls_it() -> None:
    owner = {
        "apiVersion": "agents.x-k8s.io/v1beta1",
        "kind": "Sandbox",
        "name": "s",
        "uid": "u2",
        "controller": True,
    }
    subject = make(metadata={"ownerReferences": [owner]}).subject
    assert (subject.kind, subject.name, subject.namespace, subject.uid) == (
        "Sandbox",
        "s",
        "team",
        "u2",
    )
    other = make(metadata={"ownerReferences": [{**owner, "kind": "ReplicaSet"}]}).subject
    assert (other.kind, other.name, other.uid) == ("Pod", "p", "u1")
    assert make().subject.kind == "Pod"
