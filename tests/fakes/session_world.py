"""A template with its class, its snapshot, its manifest, as the session path reads them."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from controlplane.api import names
from controlplane.api.core import Sandbox, SandboxTemplate
from controlplane.api.manifest import Artifact, ArtifactSet, Manifest, SetReference
from controlplane.api.meta import JsonObject, OwnerReference
from controlplane.api.types import ArtifactPhase, SandboxSnapshot, SnapshotClass
from controlplane.sessions.index import SessionIndex
from controlplane.snapshots.hash import compute_hash, fork_source
from controlplane.store.store import OwnerKey

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMESPACE = "team-a"
TEMPLATE = "python"
PROVIDER = "snapstart.qemu.org"
CLASS = "qemu"

POD_SPEC: JsonObject = {
    "runtimeClassName": "microvm",
    "terminationGracePeriodSeconds": 10,
    "containers": [
        {
            "name": "code-interpreter",
            "image": "registry.example/picod@sha256:" + "ab" * 32,
            "args": ["--port=8080"],
            "env": [
                {"name": "PICOD_AUTH_PUBLIC_KEY", "value": "-----BEGIN PUBLIC KEY-----\nAAAA"},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
            "ports": [{"containerPort": 8080, "protocol": "TCP"}],
            "resources": {
                "limits": {"cpu": "1", "memory": "1Gi"},
                "requests": {"cpu": "100m", "memory": "128Mi"},
            },
            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp/scratch"}],
            "securityContext": {"allowPrivilegeEscalation": False, "runAsUser": 1000},
        }
    ],
    "volumes": [{"name": "scratch", "emptyDir": {}}],
    "tolerations": [{"key": "snapstart", "operator": "Exists", "effect": "NoSchedule"}],
}


def make_template(
    name: str = TEMPLATE, namespace: str = NAMESPACE, spec: JsonObject | None = None
) -> SandboxTemplate:
    body = {
        "metadata": {"name": name, "namespace": namespace, "uid": f"template-{namespace}-{name}"},
        "spec": {"podTemplate": {"spec": POD_SPEC if spec is None else spec}},
    }
    return msgspec.convert(copy.deepcopy(body), SandboxTemplate)


def make_class(name: str = CLASS, provider: str = PROVIDER) -> SnapshotClass:
    body = {
        "metadata": {"name": name},
        "spec": {"providerName": provider, "supportedSnapshotModes": ["Fork"]},
    }
    return msgspec.convert(body, SnapshotClass)


def make_snapshot(
    name: str = "python-ready",
    *,
    uid: str = "",
    namespace: str = NAMESPACE,
    template: str = TEMPLATE,
    phase: str = "Ready",
    age_s: int = 60,
    terminating: bool = False,
    **spec: Any,
) -> SandboxSnapshot:
    meta: JsonObject = {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{name}",
        "creationTimestamp": (NOW - timedelta(seconds=age_s)).isoformat(),
    }
    if terminating:
        meta["deletionTimestamp"] = NOW.isoformat()
    source = {"apiGroup": names.EXTENSIONS_GROUP, "kind": "SandboxTemplate", "name": template}
    body = {
        "metadata": meta,
        "spec": {
            "snapshotMode": "Fork",
            "sourceRef": source,
            "snapshotClassName": CLASS,
            **spec,
        },
        "status": {"phase": phase},
    }
    return msgspec.convert(body, SandboxSnapshot)


def make_hash(
    template: SandboxTemplate | None = None, snapshot_class: SnapshotClass | None = None
) -> str:
    return compute_hash(fork_source(template or make_template(), snapshot_class or make_class()))


def make_artifact(key: str, digest: str, **changes: Any) -> Artifact:
    made = Artifact(
        provider_name=PROVIDER,
        node_name="node-a",
        phase=ArtifactPhase.READY,
        snapshot_key=key,
        snapshot_hash=digest,
    )
    return msgspec.structs.replace(made, **changes)


def make_manifest(
    snapshot: SandboxSnapshot, key: str = "key-1", digest: str = "", **artifact: Any
) -> Manifest:
    digest = digest or make_hash()
    owner = OwnerReference(
        api_version=names.API_VERSION,
        kind="SandboxSnapshot",
        name=snapshot.metadata.name,
        uid=snapshot.metadata.uid,
    )
    made = ArtifactSet(
        snapshot_key=key,
        snapshot_hash=digest,
        artifacts=(make_artifact(key, digest, **artifact),),
    )
    return Manifest(
        owner_ref=owner, artifact_sets={key: made}, active_set_ref=SetReference(snapshot_key=key)
    )


def owner_key(snapshot: SandboxSnapshot) -> OwnerKey:
    meta = snapshot.metadata
    return OwnerKey(meta.namespace, meta.name, meta.uid)


def make_index(*snapshots: SandboxSnapshot) -> SessionIndex:
    index = SessionIndex()
    index.put_template(make_template())
    index.put_class(make_class())
    for snapshot in snapshots:
        index.put_snapshot(snapshot)
    return index


def sandbox_body(
    *,
    spec: JsonObject | None = None,
    annotations: dict[str, str] | None = None,
    pod_annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    version: str = "v1beta1",
    **meta: Any,
) -> JsonObject:
    """A Sandbox as its creator sends it; by default one of AgentCube's direct ones."""
    pod_template: JsonObject = {"spec": copy.deepcopy(POD_SPEC if spec is None else spec)}
    if pod_annotations is not None:
        pod_template["metadata"] = {"annotations": pod_annotations}
    metadata: JsonObject = {
        "name": "session-1",
        "namespace": NAMESPACE,
        "labels": {names.WORKLOAD_NAME: TEMPLATE} if labels is None else labels,
        **meta,
    }
    if annotations is not None:
        metadata["annotations"] = annotations
    return {
        "apiVersion": f"{names.SANDBOX_GROUP}/{version}",
        "kind": "Sandbox",
        "metadata": metadata,
        "spec": {"podTemplate": pod_template},
    }


def make_sandbox(**parts: Any) -> Sandbox:
    return msgspec.convert(sandbox_body(**parts), Sandbox)
