"""A Pod that waits in vain is told from one that serves, and from one that is merely slow."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.node.restore_pods import SessionPod
from agentd.node.stuck_pod import Gate, Waiting, judge_waiting, read_gate, wait_s
from agentd.node.stuck_replace import REPLACED_POD, may_replace
from controlplane.api.core import Sandbox

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def gate_of(body: object, status: int = 200) -> Gate:
    return read_gate(status, json.dumps(body).encode())


def test_a_guest_of_ours_says_its_gate() -> None:
    assert gate_of({"status": "ok", "gate": "closed"}) is Gate.CLOSED
    assert gate_of({"status": "ok", "gate": "open"}) is Gate.OPEN


def test_one_that_may_be_snapshotted_waits() -> None:
    status = {"checkpoint": "InterpreterReady", "safeToSnapshot": True}
    assert gate_of(status) is Gate.CLOSED
    assert gate_of({**status, "gate": "open"}) is Gate.OPEN, "the gate itself is the better word"
    assert gate_of({**status, "safeToSnapshot": False}) is Gate.UNTOLD, "it may be busy"
    assert gate_of({**status, "safeToSnapshot": "true"}) is Gate.UNTOLD


@pytest.mark.parametrize(
    "body",
    [{}, {"gate": "ajar"}, {"gate": True}, {"gate": ["closed"]}, [], "closed", None, 7],
    ids=repr,
)
def test_other_answers_say_nothing(body: object) -> None:
    assert gate_of(body) is Gate.UNTOLD


@pytest.mark.parametrize("status", [204, 301, 404, 500, 503])
def test_an_error_says_nothing_whatever_its_body(status: int) -> None:
    assert gate_of({"gate": "closed"}, status) is Gate.UNTOLD


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(body: bytes) -> None:
    assert read_gate(200, body) in Gate


def test_nesting_without_end_says_nothing() -> None:
    assert read_gate(200, b"[" * 200_000) is Gate.UNTOLD


def test_a_closed_gate_waits_even_if_the_pod_is_ready() -> None:
    assert judge_waiting(Gate.CLOSED, is_ready=True) is Waiting.CERTAIN
    assert judge_waiting(Gate.CLOSED, is_ready=False) is Waiting.CERTAIN


def test_an_open_gate_never_waits_even_if_the_pod_is_not_ready() -> None:
    assert judge_waiting(Gate.OPEN, is_ready=False) is Waiting.NEVER


def test_of_a_guest_that_says_nothing_readiness_decides() -> None:
    assert judge_waiting(Gate.UNTOLD, is_ready=True) is Waiting.NEVER
    assert judge_waiting(Gate.UNTOLD, is_ready=False) is Waiting.SUSPECTED


def cold_pod(uid: str = "pod-1", *, age_s: float | None = 0.0, owner: str = "box-1") -> SessionPod:
    running: dict[str, Any] = {}
    if age_s is not None:
        running = {"running": {"startedAt": (NOW - timedelta(seconds=age_s)).isoformat()}}
    controller = {"kind": "Sandbox", "name": "s", "uid": owner, "controller": True}
    body = {
        "metadata": {"name": "p", "uid": uid, "ownerReferences": [controller] if owner else []},
        "status": {"phase": "Running", "containerStatuses": [{"state": running}]},
    }
    return msgspec.convert(body, SessionPod, strict=False)


def test_a_cold_pod_is_left_alone_until_its_time_is_over() -> None:
    assert wait_s(cold_pod(age_s=20), NOW, 60.0) == 40.0
    assert wait_s(cold_pod(age_s=60), NOW, 60.0) == 0.0
    assert wait_s(cold_pod(age_s=9999), NOW, 60.0) == 0.0
    assert wait_s(cold_pod(age_s=-5), NOW, 60.0) == 65.0, "clocks may differ"


def test_a_pod_none_of_whose_containers_runs_waits_for_nothing() -> None:
    assert wait_s(cold_pod(age_s=None), NOW, 60.0) is None


def sandbox(*, replaced: str = "", uid: str = "box-1", **body: Any) -> Sandbox:
    metadata = {"name": "s", "uid": uid, **body.pop("metadata", {})}
    if replaced:
        metadata["annotations"] = {REPLACED_POD: replaced}
    return msgspec.convert({"metadata": metadata, **body}, Sandbox, strict=False)


def test_a_pod_of_a_live_sandbox_may_be_replaced_once() -> None:
    assert may_replace(cold_pod(), sandbox())
    assert not may_replace(cold_pod("pod-2"), sandbox(replaced="pod-1"))


def test_a_deletion_that_was_noted_but_perhaps_not_done_is_done() -> None:
    assert may_replace(cold_pod("pod-1"), sandbox(replaced="pod-1"))


def test_only_its_own_sandbox_may_have_it_replaced() -> None:
    assert not may_replace(cold_pod(owner="box-0"), sandbox())
    assert not may_replace(cold_pod(owner=""), sandbox())


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
        {"spec": {"replicas": 0}},
        {"spec": {"operatingMode": "Suspended"}},
    ],
    ids=["terminating", "no-replicas", "suspended"],
)
def test_a_sandbox_that_would_make_no_other_pod_keeps_this_one(body: dict[str, Any]) -> None:
    assert not may_replace(cold_pod(), sandbox(**body))
