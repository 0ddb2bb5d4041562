"""A virtual node in a real cluster: unmodified scheduler, controllers, agent-sandbox above it."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.image import Image
from bench.demo import IMAGES
from bench.node import Node
from controlplane.api import names
from controlplane.api.keys import key_id
from tests.kube.cluster import Cluster
from tests.kube.objects import fresh_namespace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.restarts]

ROOT = Path(__file__).parents[3]
NODE = "snapstart-node-a"
KEY = "python-0123456789-fork-g1-r1"
HASH = "sha256:" + "7" * 64
TOLERATION = {"key": names.VIRTUAL_NODE, "operator": "Exists", "effect": "NoSchedule"}


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with fresh_namespace(cluster) as name:
        yield name


@pytest.fixture
def agent(cluster: Cluster, guest_image: Image, tmp_path: Path) -> Iterator[Node]:
    """A real agentd, with the rights that `deploy/` gives it and no other."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "agentcube-system"}}
    cluster.apply([namespace])
    for name in ("rbac-agentd.yaml", "agentd-policy.yaml"):
        text = (ROOT / "deploy/kubernetes" / name).read_text()
        cluster.apply([item for item in yaml.safe_load_all(text) if item])
    config = tmp_path / "agentd.toml"
    kubeconfig = cluster.kubeconfig_for(f"snapstart:agentd:{NODE}", ["snapstart:agents"])
    config.write_text(
        f"""
[node]
enabled = true
virtual = true
name = "{NODE}"
kubeconfig = "{kubeconfig}"
address = "127.0.0.1"
pod_cidr = "127.89.0.0/24"
images = {{ "python" = "{guest_image.directory}" }}
"""
    )
    cluster.apply([runtime_class()])
    with Node(IMAGES, CONFIG=str(config)) as running:
        yield running
    cluster.api.delete(f"/api/v1/nodes/{NODE}")


def runtime_class() -> dict[str, Any]:
    scheduling = {"nodeSelector": {names.VIRTUAL_NODE: "true"}, "tolerations": [TOLERATION]}
    return {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "snapstart"},
        "handler": "snapstart",
        "scheduling": scheduling,
    }


def sandbox(namespace: str, name: str, **more: Any) -> dict[str, Any]:
    """A Sandbox whose Pod goes to a virtual node by its RuntimeClass alone."""
    meta, pod_meta = more.pop("metadata", {}), more.pop("pod_metadata", {})
    container = {"name": "main", "image": "python:3.11", **more.pop("container", {})}
    spec = {"runtimeClassName": "snapstart", "containers": [container], **more}
    return {
        "apiVersion": "agents.x-k8s.io/v1beta1",
        "kind": "Sandbox",
        "metadata": {"name": name, "namespace": namespace, **meta},
        "spec": {"podTemplate": {"metadata": pod_meta, "spec": spec}},
    }


def condition(item: dict[str, Any], kind: str) -> str:
    found = item.get("status", {}).get("conditions") or ()
    return next((str(one["status"]) for one in found if one["type"] == kind), "")


def get(cluster: Cluster, namespace: str, kind: str, name: str) -> dict[str, Any]:
    paths = {
        "pod": f"/api/v1/namespaces/{namespace}/pods/{name}",
        "sandbox": f"/apis/agents.x-k8s.io/v1beta1/namespaces/{namespace}/sandboxes/{name}",
        "task": f"/apis/{names.GROUP}/v1alpha1/namespaces/{namespace}/sandboxsnapshottasks/{name}",
    }
    return cluster.api.get(paths[kind])


def until_ready(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """Wait for agent-sandbox to say that a Sandbox is ready. Returns: its Pod."""
    cluster.wait_for(
        f"Sandbox {name} ready",
        lambda: condition(get(cluster, namespace, "sandbox", name), "Ready") == "True",
        deadline_s=120,
    )
    return get(cluster, namespace, "pod", name)


def health(pod: dict[str, Any]) -> dict[str, Any]:
    url = f"http://{pod['status']['podIP']}:8080/health"
    with urllib.request.urlopen(url, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def settle(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """The Pod once its annotation is there, which is written last."""

    def is_annotated() -> bool:
        meta = get(cluster, namespace, "pod", name)["metadata"]
        return names.STARTED_FROM in (meta.get("annotations") or {})

    cluster.wait_for("the annotation", is_annotated)
    return get(cluster, namespace, "pod", name)


def is_left_alone(cluster: Cluster, namespace: str, name: str) -> bool:
    """For three seconds. A node whose heartbeat comes late is marked once, and set right once."""
    before = get(cluster, namespace, "pod", name)
    time.sleep(3)
    return get(cluster, namespace, "pod", name) == before


def test_sandboxes_run_as_machines_and_survive_their_agent(
    cluster: Cluster, namespace: str, agent: Node
) -> None:
    cluster.apply([sandbox(namespace, "cold")])
    pod = until_ready(cluster, namespace, "cold")
    assert pod["spec"]["nodeName"] == NODE
    assert health(pod) == {"status": "ok", "gate": "open"}
    settle(cluster, namespace, "cold")
    quiet = (is_left_alone(cluster, namespace, "cold") for _ in range(4))
    assert any(quiet), "nothing is written over and over"
    before = agent.usages()
    agent.kill()
    agent.start()

    def is_adopted() -> bool:
        return {row.session for row in agent.usages().values()} == set(before)

    cluster.wait_for("the same machine under the new agentd", is_adopted)
    cluster.wait_for("its address served again", lambda: _answers(pod), deadline_s=60)
    after = get(cluster, namespace, "pod", "cold")
    assert after["status"]["containerStatuses"] == pod["status"]["containerStatuses"]
    cluster.restart_apiserver()
    assert health(pod)["gate"] == "open"
    cluster.api.delete(f"/apis/agents.x-k8s.io/v1beta1/namespaces/{namespace}/sandboxes/cold")
    cluster.wait_for("no machine", lambda: not agent.usages(), deadline_s=90)


def _answers(pod: dict[str, Any]) -> bool:
    try:
        return bool(health(pod)["gate"] == "open")
    except OSError:
        return False


def test_a_task_makes_an_artifact_that_a_session_forks(
    cluster: Cluster, namespace: str, agent: Node
) -> None:
    (snapshot,) = cluster.apply([_snapshot(namespace)])
    cluster.apply([_build(namespace, snapshot)])
    until_ready(cluster, namespace, "build")
    cluster.apply([_task(namespace, snapshot)])
    cluster.wait_for(
        "a ready task",
        lambda: get(cluster, namespace, "task", "make").get("status", {}).get("phase") == "Ready",
        deadline_s=90,
    )
    cluster.api.delete(f"/apis/agents.x-k8s.io/v1beta1/namespaces/{namespace}/sandboxes/build")
    intent = {"annotations": {names.SNAPSHOT_KEY: KEY}}
    cluster.apply([sandbox(namespace, "session", pod_metadata=intent)])
    pod = until_ready(cluster, namespace, "session")
    assert health(pod)["gate"] == "open"

    def started_from() -> str:
        found = get(cluster, namespace, "pod", "session")["metadata"].get("annotations") or {}
        return str(found.get(names.STARTED_FROM))

    cluster.wait_for("the annotation", lambda: started_from() == names.FROM_SNAPSHOT)
    text = cluster.kubectl("get", "events", "-n", namespace)
    assert "SandboxRestoredFromSnapshot" in text
    assert "SnapshotCreated" in text
    cluster.api.delete(f"/apis/agents.x-k8s.io/v1beta1/namespaces/{namespace}/sandboxes/session")
    cluster.wait_for("no machine", lambda: not agent.usages(), deadline_s=90)


def _snapshot(namespace: str) -> dict[str, Any]:
    source = {"apiGroup": names.EXTENSIONS_GROUP, "kind": "SandboxTemplate", "name": "python"}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "SandboxSnapshot",
        "metadata": {"name": "python", "namespace": namespace},
        "spec": {"snapshotMode": "Fork", "sourceRef": source, "snapshotClassName": "local"},
    }


def _build(namespace: str, snapshot: dict[str, Any]) -> dict[str, Any]:
    uid = snapshot["metadata"]["uid"]
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": "SandboxSnapshot",
        "name": "python",
        "uid": uid,
        "controller": True,
    }
    marks = {names.TEMPLATE_SANDBOX: "true", names.SNAPSHOT_KEY_ID: key_id(KEY)}
    metadata = {
        "ownerReferences": [owner],
        "labels": marks,
        "annotations": {names.SNAPSHOT_HASH: HASH},
    }
    gate = {"env": [{"name": names.SESSION_GATE_ENV, "value": "true"}]}
    return sandbox(
        namespace,
        "build",
        metadata=metadata,
        container=gate,
        nodeName=NODE,
        automountServiceAccountToken=False,
    )


def _task(namespace: str, snapshot: dict[str, Any]) -> dict[str, Any]:
    target = {"apiGroup": names.SANDBOX_GROUP, "kind": "Sandbox", "name": "build"}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "SandboxSnapshotTask",
        "metadata": {"name": "make", "namespace": namespace},
        "spec": {
            "snapshotRef": {"apiGroup": names.GROUP, "kind": "SandboxSnapshot", "name": "python"},
            "snapshotUID": snapshot["metadata"]["uid"],
            "snapshotMode": "Fork",
            "targetSandboxRef": target,
            "targetNodeName": NODE,
            "providerName": "snapstart.qemu.org",
            "snapshotKey": KEY,
            "snapshotHash": HASH,
        },
    }
