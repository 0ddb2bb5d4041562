"""Make the objects that tests on a cluster begin with."""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections.abc import Iterator
from typing import Any

from tests.kube.api import ApiError
from tests.kube.cluster import Cluster

MERGE = "application/merge-patch+json"
SANDBOX_GROUP = "agents.x-k8s.io"
LEASE_S = 40


@contextlib.contextmanager
def fresh_namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace in which pods can be made; deleted in the end, without waiting for it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    path = f"/api/v1/namespaces/{name}"
    cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
    try:
        account = f"{path}/serviceaccounts/default"
        cluster.wait_for("a default service account", lambda: exists(cluster, account))
        yield name
    finally:
        cluster.api.delete(path)


def exists(cluster: Cluster, path: str) -> bool:
    """Whether there is an object at `path`."""
    try:
        cluster.api.get(path)
    except ApiError as exc:
        if exc.status == 404:
            return False
        raise
    return True


def pods(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """The pods of a namespace."""
    found: list[dict[str, Any]] = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return found


@contextlib.contextmanager
def fake_node(cluster: Cluster) -> Iterator[str]:
    """A Node with nothing behind it; it looks ready until a heartbeat is missed."""
    name = f"node-{uuid.uuid4().hex[:8]}"
    path = f"/api/v1/nodes/{name}"
    metadata = {"name": name, "labels": {"kubernetes.io/hostname": name}}
    heartbeat(cluster, name)
    try:
        cluster.apply([{"apiVersion": "v1", "kind": "Node", "metadata": metadata}])
        status = {"status": _ready_status(datetime.datetime.now(datetime.UTC))}
        cluster.api.call("PATCH", f"{path}/status", status, content_type=MERGE)
        yield name
    finally:
        cluster.api.delete(path)


def _ready_status(now: datetime.datetime) -> dict[str, Any]:
    room = {"cpu": "8", "memory": "16Gi", "pods": "110"}
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    times = {"lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
    return {"capacity": room, "allocatable": room, "conditions": [{**ready, **times}]}


def heartbeat(cluster: Cluster, node: str) -> None:
    """Renew the Lease of a node, as a kubelet does."""
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    metadata = {"name": node, "namespace": "kube-node-lease"}
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": node, "leaseDurationSeconds": LEASE_S, "renewTime": now}
    cluster.apply([{**lease, "metadata": metadata, "spec": spec}])


def sandbox(namespace: str, name: str, version: str, node: str) -> dict[str, Any]:
    """A Sandbox whose pod goes to one node and carries an annotation `example.test/mark`."""
    container = {"name": "main", "image": "example.test/none:1"}
    template = {
        "metadata": {"annotations": {"example.test/mark": "kept"}},
        "spec": {"containers": [container], "nodeSelector": {"kubernetes.io/hostname": node}},
    }
    return {
        "apiVersion": f"{SANDBOX_GROUP}/{version}",
        "kind": "Sandbox",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podTemplate": template},
    }
