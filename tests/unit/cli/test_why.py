"""How a session's start is explained."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentd.cli.why import _TEXTS, Start, explain_start
from controlplane.api import names
from controlplane.api.core import Pod, Sandbox
from controlplane.sessions.decision import StartReason

KEY = "python-0123456789-fork-g1-r1"


def a_sandbox(*, intent: str = "", cold: str = "", labels: dict[str, str] | None = None) -> Sandbox:
    annotations = {names.COLD_START_REASON: cold} if cold else {}
    pod = {"metadata": {"annotations": {names.SNAPSHOT_KEY: intent} if intent else {}}}
    metadata = {"name": "s1", "namespace": "team", "annotations": annotations, "labels": labels}
    return msgspec.convert({"metadata": metadata, "spec": {"podTemplate": pod}}, Sandbox)


def a_pod(*, phase: str = "Running", said: str = "", why: str = "") -> Pod:
    annotations = {names.STARTED_FROM: said} if said else {}
    if why:
        annotations[names.STARTED_FROM_REASON] = why
    body = {
        "metadata": {"name": "s1", "annotations": annotations},
        "spec": {"nodeName": "node-a"},
        "status": {"phase": phase},
    }
    return msgspec.convert(body, Pod)


CASES: dict[str, tuple[dict[str, Any], Pod | None, Start, str]] = {
    "a fork": ({"intent": KEY}, a_pod(said="snapshot"), Start.RESTORED, ""),
    "the node fell back": (
        {"intent": KEY},
        a_pod(said="cold", why="artifact_missing"),
        Start.COLD,
        "artifact_missing",
    ),
    "cold as decided": ({"cold": "hash_mismatch"}, a_pod(said="cold"), Start.COLD, "hash_mismatch"),
    "cold elsewhere": ({"cold": "not_ready"}, a_pod(), Start.COLD, "not_ready"),
    "nothing to restore": ({}, a_pod(), Start.COLD, "no_snapshot"),
    "no pod yet": ({"intent": KEY}, None, Start.STARTING, ""),
    "pod waits": ({"intent": KEY}, a_pod(phase="Pending"), Start.STARTING, ""),
    "silent runtime": ({"intent": KEY}, a_pod(), Start.ASKED, ""),
    "a build": ({"labels": {names.TEMPLATE_SANDBOX: "true"}}, a_pod(), Start.BUILD, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_start_is_told_from_what_webhook_and_node_have_noted(case: str) -> None:
    sandbox, pod, start, reason = CASES[case]
    found = explain_start(a_sandbox(**sandbox), pod, ("w",))
    assert (found.start, found.reason) == (start, reason)
    assert found.text
    assert found.events == ("w",)
    assert found.node == ("node-a" if pod else "")


def test_every_reason_of_the_lookup_has_words() -> None:
    reasons = {reason.value for reason in StartReason} - {StartReason.RESTORED_INTENT.value}
    assert reasons <= set(_TEXTS)
