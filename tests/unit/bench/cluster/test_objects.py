"""What the demonstration applies is what an administrator and AgentCube would."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from bench.cluster import install
from bench.cluster.observer import StatusAt
from bench.cluster.pool import claim_object, pool_object
from bench.cluster.sessions import session_object
from bench.cluster.snapshot import counts_since, describe, is_whole
from controlplane.api import names
from controlplane.api.core import Sandbox
from controlplane.api.meta import Condition
from controlplane.api.types import SandboxSnapshotStatus, SnapshotPhase
from controlplane.sessions.session import is_restore_annotation, session_of

TEMPLATE = {
    "metadata": {"name": "python", "namespace": "default"},
    "spec": {"podTemplate": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
}
WHOLE = SandboxSnapshotStatus(phase=SnapshotPhase.READY, target_node_count=2, ready_node_count=2)


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
def test_a_session_says_nothing_of_snapshots(version: str) -> None:
    body = session_object(TEMPLATE, "s1", version)
    pod = body["spec"]["podTemplate"]
    assert not any(is_restore_annotation(key) for key in pod["metadata"].get("annotations", {}))
    assert pod["spec"] == TEMPLATE["spec"]["podTemplate"]["spec"]  # type: ignore[index]
    sandbox = msgspec.convert(body, Sandbox, strict=False)
    assert session_of(sandbox, "default").template == "python"
    ends = sandbox.spec.shutdown_time
    assert ends is not None
    assert ends > datetime.now(UTC)


def test_the_webhooks_are_called_by_url() -> None:
    hooks = [item for item in install.installation(4711) if "webhooks" in item]
    assert [item["kind"] for item in hooks] == [
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
    ]
    for item in hooks:
        for webhook in item["webhooks"]:
            assert set(webhook["clientConfig"]) == {"url"}
            assert webhook["clientConfig"]["url"].startswith("https://localhost:4711/admission/")


def test_nothing_that_a_kubelet_would_run_is_applied() -> None:
    kinds = {item["kind"] for item in install.installation(1)}
    assert not kinds & {"Deployment", "DaemonSet", "Service"}
    assert {"Namespace", "ServiceAccount", "ClusterRole", "RuntimeClass"} <= kinds


def test_a_node_is_the_user_that_the_policy_names() -> None:
    policy = (install.DEPLOY / "agentd-policy.yaml").read_text()
    assert f"startsWith('{install.agent_user('')}')" in policy
    assert f"'{install.AGENTS}'" in policy


def test_the_examples_belong_together() -> None:
    runtime = install.example("code-interpreter")
    shown = install.example("sandbox-snapshot")
    assert shown["spec"]["sourceRef"]["name"] == runtime["metadata"]["name"]
    assert (
        shown["spec"]["snapshotClassName"]
        == (install.example("snapshotclass-qemu")["metadata"]["name"])
    )


def test_a_claim_takes_from_the_pool() -> None:
    made = pool_object("python", 2, "v1beta1")
    assert made["spec"]["sandboxTemplateRef"] == {"name": "python"}
    taken = claim_object("first", "v1beta1")
    assert taken["spec"]["warmPoolRef"] == {"name": made["metadata"]["name"]}


def condition(kind: str) -> Condition:
    return Condition(type=kind, status="True")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, True, id="all nodes"),
        pytest.param({"ready_node_count": 1, "failed_node_count": 1}, False, id="one failed"),
        pytest.param({"phase": SnapshotPhase.CREATING}, False, id="not ready"),
        pytest.param({"conditions": (condition("Rebuilding"),)}, False, id="rebuilding"),
        pytest.param({"conditions": (condition("Stale"),)}, False, id="stale"),
    ],
)
def test_whole_is(changes: dict[str, object], expected: bool) -> None:
    assert is_whole(msgspec.structs.replace(WHOLE, **changes)) is expected


def test_a_status_in_one_line_leaves_out_what_is_zero() -> None:
    status = SandboxSnapshotStatus(
        phase=SnapshotPhase.READY,
        target_node_count=2,
        ready_node_count=1,
        unavailable_node_count=1,
    )
    assert describe(status) == "Ready (1 ready, 1 unavailable of 2)"
    assert describe(SandboxSnapshotStatus()) == "Pending (no nodes of 0)"


def test_counts_that_stay_the_same_are_told_once() -> None:
    other = msgspec.structs.replace(WHOLE, message="something else")
    less = msgspec.structs.replace(WHOLE, ready_node_count=1, unavailable_node_count=1)
    history = [StatusAt(at, "python", one) for at, one in ((1.5, WHOLE), (2.0, other), (3.0, less))]
    found = counts_since(history, 1.0)
    assert [(one.at_s, one.ready) for one in found] == [(0.5, 2), (2.0, 1)]


def test_names_are_those_of_agentcube() -> None:
    labels = session_object(TEMPLATE, "s1", "v1beta1")["metadata"]["labels"]
    assert labels[names.WORKLOAD_NAME] == "python"
    assert labels[names.SESSION_ID]
