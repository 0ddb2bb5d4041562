"""What a build Sandbox and a task say."""

from __future__ import annotations

import copy

import msgspec
import pytest

from controlplane.api import names
from controlplane.api.core import Sandbox
from controlplane.api.meta import JsonObject
from controlplane.api.types import SnapshotPhase, TaskOperation
from controlplane.kube.sandboxes import SandboxVersion
from controlplane.snapshots.calls import call_of
from controlplane.snapshots.content import label_value
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.steps import CreateBuildSandbox
from tests.fakes.snapshot_world import POD_SPEC, World

SPEC: JsonObject = {
    "runtimeClassName": "",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "automountServiceAccountToken": True,
    "containers": [
        {
            "name": "code",
            "image": "x",
            "env": [
                {"name": "A", "value": "1"},
                {"name": names.SESSION_GATE_ENV, "value": "false"},
                {"name": names.SESSION_GATE_ENV, "value": "no"},
            ],
        },
        {"name": "helper", "image": "y"},
    ],
    "initContainers": [{"name": "init", "image": "z"}],
}
METADATA = {
    "labels": {
        "app": "python",
        names.SESSION_ID: "s1",
        "agents.x-k8s.io/x": "y",
    },
    "annotations": {
        names.SNAPSHOT_KEY: "stolen",
        "kuasar.io/template-key": "stolen",
        "prometheus.io/scrape": "true",
        "note": "x",
    },
}


def _build(policy: Policy | None = None, version: str = "v1beta1") -> tuple[JsonObject, Sandbox]:
    world = World(policy)
    world.add_node("node-a", **{"kubernetes.io/os": "linux"})
    world.add_class(buildPodAnnotations={names.KUASAR_READY_VERSION: "1"})
    world.add_template(copy.deepcopy(SPEC))
    patch = {"spec": {"podTemplate": {"metadata": METADATA}}}
    from tests.fakes.snapshot_world import NAMESPACE, TEMPLATES

    world.cluster.merge(TEMPLATES, "python", patch, namespace=NAMESPACE)
    world.add_snapshot()
    world.reconcile()
    step = next(one for one in world.plan().steps if isinstance(one, CreateBuildSandbox))
    call = call_of(step, world.snapshot, SandboxVersion(version))
    assert call is not None
    body = call.args[1]
    return body, msgspec.convert(body, Sandbox, strict=False)


def test_a_build_is_pinned_gated_and_without_a_token() -> None:
    """Defect 48."""
    _, sandbox = _build()
    spec = sandbox.spec.pod_template.spec
    assert spec["nodeName"] == "node-a"
    assert spec["automountServiceAccountToken"] is False
    assert "runtimeClassName" not in spec
    gate = {"name": names.SESSION_GATE_ENV, "value": "true"}
    assert [one["env"] for one in spec["containers"]] == [
        [{"name": "A", "value": "1"}, gate],
        [gate],
    ]
    assert "env" not in spec["initContainers"][0]


def test_a_build_expires_by_itself() -> None:
    """Defect 48."""
    body, sandbox = _build()
    assert body["spec"]["shutdownPolicy"] == "Delete"
    assert sandbox.spec.shutdown_time is not None
    assert body["spec"]["shutdownTime"] == "2026-01-02T03:34:05Z"


def test_a_build_is_marked_and_owned() -> None:
    """Defect 48."""
    _, sandbox = _build()
    meta = sandbox.metadata
    assert meta.controller is not None
    assert meta.controller.kind == "SandboxSnapshot"
    assert meta.label(names.TEMPLATE_SANDBOX) == "true"
    assert meta.annotation(names.TEMPLATE_SANDBOX) == "true"
    assert meta.label(names.SNAPSHOT_UID) == meta.controller.uid
    assert meta.label(names.TARGET_NODE) == "node-a"
    assert meta.annotation(names.SNAPSHOT_HASH).startswith("sha256:")


def test_a_templates_annotations_reach_a_build_only_if_they_are_allowed() -> None:
    """Defect 49."""
    _, sandbox = _build()
    found = sandbox.spec.pod_template.metadata.annotations or {}
    assert found == {names.TEMPLATE_SANDBOX: "true", names.KUASAR_READY_VERSION: "1"}
    _, sandbox = _build(Policy(build_annotation_prefixes=("prometheus.io/", "kuasar.io/", "agent")))
    found = sandbox.spec.pod_template.metadata.annotations or {}
    assert found["prometheus.io/scrape"] == "true"
    assert "kuasar.io/template-key" not in found
    assert names.SNAPSHOT_KEY not in found


def test_a_build_carries_no_label_of_a_session() -> None:
    """Defect 98."""
    _, sandbox = _build()
    labels = sandbox.spec.pod_template.metadata.labels or {}
    assert labels["app"] == "python"
    assert names.SESSION_ID not in labels
    assert "agents.x-k8s.io/x" not in labels


@pytest.mark.parametrize(
    ("version", "running"),
    [("v1alpha1", {"replicas": 1}), ("v1beta1", {"operatingMode": "Running"})],
)
def test_a_build_runs_in_either_version(version: str, running: JsonObject) -> None:
    body, _ = _build(version=version)
    assert body["apiVersion"] == f"agents.x-k8s.io/{version}"
    assert running.items() <= body["spec"].items()


def test_the_template_is_left_as_it_is() -> None:
    """Defect 47: a build shares nothing with the informer's copy."""
    world = World()
    world.add_node("node-a")
    world.add_class()
    world.add_template()
    world.add_snapshot()
    world.reconcile()
    seen = world.observe()
    assert seen.template is not None
    from controlplane.snapshots.plan import plan_snapshot

    plan_snapshot(seen, world.now)
    assert seen.template.spec.pod_template.spec == POD_SPEC


def test_a_task_names_everything_that_is_checked_on_the_node() -> None:
    world = World()
    world.add_node("node-a")
    world.add_class()
    world.add_template()
    world.add_snapshot()
    world.agents.idle = {"node-a"}
    world.settle()
    (task,), (sandbox,) = world.tasks, world.sandboxes
    spec, artifact = task.spec, world.artifact("node-a")
    assert spec.snapshot_uid == world.snapshot.metadata.uid
    assert (spec.snapshot_key, spec.snapshot_hash) == (
        artifact.snapshot_key,
        artifact.snapshot_hash,
    )
    assert spec.target_sandbox_ref.name == sandbox.metadata.name
    assert spec.operation is TaskOperation.CREATE
    assert task.metadata.annotation(names.TARGET_NODE_UID) == artifact.node_uid
    assert task.metadata.controller is not None


def test_a_long_node_name_becomes_a_label_by_its_digest() -> None:
    """Defect 28."""
    assert label_value("node-a") == "node-a"
    long = "n" * 200
    assert len(label_value(long)) <= 63
    assert label_value(long) != label_value(long + "x")


def test_a_class_that_would_restore_its_builds_builds_nothing() -> None:
    """Defect 49: the admission rule is repeated here."""
    world = World()
    world.add_node("node-a")
    world.add_class(buildPodAnnotations={names.SNAPSHOT_KEY: "stolen"})
    world.add_template()
    world.add_snapshot()
    world.settle()
    assert world.phase is SnapshotPhase.FAILED
    assert not world.sandboxes
