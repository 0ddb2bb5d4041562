"""The verdict on a guest: what is clean, what is not yet, what is refused, who is caught lying."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from agentd.warmfork.verdict import Finding, HostKnowledge, judge_contamination
from agentd.wire.guest import GuestStatus

INIT = {"pid": 1, "ppid": 0, "name": "init", "cmdline": "/init", "threads": 1}
PYTHON = {"pid": 40, "ppid": 1, "name": "python3", "cmdline": "python3 -m guest", "threads": 2}
SAFE: dict[str, Any] = {
    "checkpoint": "InterpreterReady",
    "safeToSnapshot": True,
    "userStateLoaded": False,
    "activeTasks": 0,
    "details": {"interpreterState": "idle", "workspaceEmpty": True, "preloadedPackages": ["numpy"]},
    "gate": "closed",
    "reasons": [],
    "processes": [INIT, PYTHON],
    "baseline_processes": [INIT, PYTHON],
    "runtime": {"version": "1", "python": "3.11", "kernel": "6.1"},
}
HOST = HostKnowledge(opened={"status": 9, "checkpoint": 1}, has_network_device=False)


def _status(**changes: Any) -> GuestStatus:
    return msgspec.convert({**SAFE, **changes}, GuestStatus)


def _details(**changes: Any) -> dict[str, Any]:
    return {**SAFE["details"], **changes}


def test_guest_with_nothing_against_it_is_clean() -> None:
    verdict = judge_contamination(_status(), HOST)
    assert verdict.finding is Finding.CLEAN
    assert str(verdict) == "clean"


def test_fewer_threads_than_at_the_baseline_are_clean() -> None:
    processes = [INIT, {**PYTHON, "threads": 1}]
    assert judge_contamination(_status(processes=processes), HOST).finding is Finding.CLEAN


NOT_YET = {
    "warming": {"baseline_processes": []},
    "not listening": {},
    "busy": {"details": _details(interpreterState="starting")},
    "a process of start-up ended": {"processes": [INIT]},
}


@pytest.mark.parametrize("changes", NOT_YET.values(), ids=NOT_YET)
def test_guest_that_is_not_ready_is_waited_for(changes: dict[str, Any]) -> None:
    verdict = judge_contamination(_status(safeToSnapshot=False, **changes), HOST)
    assert verdict.finding is Finding.NOT_YET
    assert "checkpoint" in str(verdict)


@dataclass(frozen=True)
class Evidence:
    """A change to a clean guest, a word its reason has to have."""

    word: str
    changes: dict[str, Any] = field(default_factory=dict)


EVIDENCE = {
    "user state": Evidence("user state", {"userStateLoaded": True}),
    "task": Evidence("1 task", {"activeTasks": 1}),
    "tasks below zero": Evidence("-1 task", {"activeTasks": -1}),
    "workspace": Evidence("workspace", {"details": _details(workspaceEmpty=False)}),
    "gate": Evidence("gate", {"gate": "open"}),
    "gate misnamed": Evidence("gate", {"gate": ""}),
    "reason": Evidence("socket: tcp", {"reasons": [{"kind": "socket", "detail": "tcp"}]}),
    "process": Evidence(
        "not of the baseline", {"processes": [INIT, PYTHON, {**PYTHON, "pid": 77}]}
    ),
    "thread": Evidence("9 threads", {"processes": [INIT, {**PYTHON, "threads": 9}]}),
    "other program": Evidence(
        "was 'python3'", {"processes": [INIT, {**PYTHON, "name": "sh", "cmdline": "sh"}]}
    ),
    "other command line": Evidence(
        "at the baseline", {"processes": [INIT, {**PYTHON, "cmdline": "python3 evil"}]}
    ),
    "adopted": Evidence("at the baseline", {"processes": [INIT, {**PYTHON, "ppid": 9}]}),
    "pid twice": Evidence("twice", {"processes": [INIT, PYTHON, PYTHON]}),
    "baseline pid twice": Evidence("twice", {"baseline_processes": [INIT, PYTHON, PYTHON]}),
}


@pytest.mark.parametrize("evidence", EVIDENCE.values(), ids=EVIDENCE)
@pytest.mark.parametrize("claims_safe", [True, False], ids=["claims safe", "claims unsafe"])
def test_evidence_contaminates_whatever_the_guest_claims(
    evidence: Evidence, claims_safe: bool
) -> None:
    status = _status(safeToSnapshot=claims_safe, **evidence.changes)
    verdict = judge_contamination(status, HOST)
    assert verdict.finding is Finding.CONTAMINATED
    assert evidence.word in str(verdict)


LIES = {
    "reasons against it": Evidence("reasons", {"reasons": [{"kind": "x"}]}),
    "no process": Evidence("not even itself", {"processes": []}),
    "no baseline": Evidence("baseline", {"baseline_processes": []}),
    "baseline process gone": Evidence("pid 40", {"processes": [INIT]}),
    "busy": Evidence("'busy'", {"details": _details(interpreterState="busy")}),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_claim_that_contradicts_the_report_is_refused(lie: Evidence) -> None:
    verdict = judge_contamination(_status(**lie.changes), HOST)
    assert verdict.finding is Finding.CONTAMINATED
    assert "claims to be safe" in str(verdict)
    assert lie.word in str(verdict)


HOST_EVIDENCE = {
    **{
        service: (HostKnowledge({"status": 1, service: 1}, False), repr(service))
        for service in ("execute", "files", "http", "inject", "signal", "anything-new")
    },
    "network": (HostKnowledge({}, True), "network device"),
}


@pytest.mark.parametrize(("host", "word"), HOST_EVIDENCE.values(), ids=HOST_EVIDENCE)
def test_what_the_host_knows_contaminates_a_guest_that_looks_clean(
    host: HostKnowledge, word: str
) -> None:
    verdict = judge_contamination(_status(), host)
    assert verdict.finding is Finding.CONTAMINATED
    assert word in str(verdict)


def test_guest_that_babbles_gives_a_short_verdict() -> None:
    reasons = [{"kind": "k" * 10_000, "detail": "d" * 10_000}] * 10_000
    assert len(str(judge_contamination(_status(reasons=reasons), HOST))) < 50_000
