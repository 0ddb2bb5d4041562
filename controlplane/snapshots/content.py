"""Write build Sandboxes, tasks."""

from __future__ import annotations

import copy
import hashlib
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec.structs import replace

from controlplane.api import names
from controlplane.api.core import PodTemplate, PodTemplateMetadata
from controlplane.api.manifest import Artifact
from controlplane.api.meta import JsonObject, ObjectMeta, OwnerReference, TypedReference
from controlplane.api.types import (
    SandboxSnapshot,
    SandboxSnapshotTask,
    SandboxSnapshotTaskSpec,
    TaskOperation,
)
from controlplane.snapshots.hash import with_secure_defaults
from controlplane.snapshots.orders import key_id, name_of_task
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.sets import owner_of
from controlplane.snapshots.source import Source
from controlplane.snapshots.steps import BuildSandbox
from controlplane.snapshots.traced import trace_annotations

_LABEL_VALUE_MAX: Final = 63
# Whose keys never pass from a template to a build Pod: ours, agent-sandbox's, the runtime's.
_FOREIGN_PREFIXES: Final = (
    names.PREFIX,
    "agents.x-k8s.io/",
    "runtime.agentcube.io/",
    *names.PROVIDER_RESTORE_PREFIXES,
)


def make_build_sandbox(
    snapshot: SandboxSnapshot,
    artifact: Artifact,
    source: Source,
    policy: Policy,
    name: str,
    now: datetime,
) -> BuildSandbox:
    """The Sandbox of one build attempt; expires by itself if everybody forgets it."""
    begun = artifact.started_at or now
    return BuildSandbox(
        metadata=ObjectMeta(
            name=name,
            namespace=snapshot.metadata.namespace,
            labels={**_labels(snapshot, artifact), names.TEMPLATE_SANDBOX: "true"},
            annotations={
                names.TEMPLATE_SANDBOX: "true",
                names.SNAPSHOT_HASH: artifact.snapshot_hash,
            },
            owner_references=(_controller(snapshot),),
        ),
        pod_template=PodTemplate(
            spec=build_pod_spec(source, artifact.node_name),
            metadata=_pod_metadata(snapshot, artifact, source, policy),
        ),
        shutdown_time=begun + timedelta(seconds=policy.build_expiry_s),
    )


def make_task(
    snapshot: SandboxSnapshot,
    artifact: Artifact,
    operation: TaskOperation,
    sandbox_name: str,
    policy: Policy,
) -> SandboxSnapshotTask:
    """An order to the artifact's node. sandbox_name: what a Create order is to snapshot."""
    node = {names.TARGET_NODE_UID: artifact.node_uid} if artifact.node_uid else {}
    is_build = operation is TaskOperation.CREATE
    trace = trace_annotations(snapshot, artifact, policy) if is_build else {}
    return SandboxSnapshotTask(
        metadata=ObjectMeta(
            name=name_of_task(artifact, operation),
            namespace=snapshot.metadata.namespace,
            labels=_labels(snapshot, artifact),
            annotations={**node, **trace} or None,
            owner_references=(_controller(snapshot),),
        ),
        spec=SandboxSnapshotTaskSpec(
            snapshot_ref=TypedReference(
                api_group=names.GROUP, kind="SandboxSnapshot", name=snapshot.metadata.name
            ),
            snapshot_uid=snapshot.metadata.uid,
            snapshot_mode=snapshot.spec.snapshot_mode,
            target_sandbox_ref=TypedReference(
                api_group=names.SANDBOX_GROUP, kind="Sandbox", name=sandbox_name
            ),
            target_node_name=artifact.node_name,
            provider_name=artifact.provider_name,
            snapshot_key=artifact.snapshot_key,
            snapshot_hash=artifact.snapshot_hash,
            operation=operation,
        ),
    )


def build_pod_spec(source: Source, node_name: str) -> JsonObject:
    """The template's pod spec, made fit for a build; the template itself is left as it is."""
    spec = copy.deepcopy(source.template.spec.pod_template.spec)
    spec = with_secure_defaults(source.template, spec)
    spec["nodeName"] = node_name
    spec["automountServiceAccountToken"] = False
    if not spec.get("runtimeClassName"):
        spec.pop("runtimeClassName", None)
    spec["containers"] = [_gated(container) for container in spec.get("containers") or ()]
    return spec


def label_value(node_name: str) -> str:
    """A node's name as a label's value; one that is too long is told by its digest."""
    if len(node_name) <= _LABEL_VALUE_MAX:
        return node_name
    return hashlib.sha256(node_name.encode()).hexdigest()[:32]


def _gated(container: JsonObject) -> JsonObject:
    """With the session gate closed, by exactly one entry."""
    env: list[dict[str, Any]] = [
        entry for entry in container.get("env") or () if entry.get("name") != names.SESSION_GATE_ENV
    ]
    return {**container, "env": [*env, {"name": names.SESSION_GATE_ENV, "value": "true"}]}


def _pod_metadata(
    snapshot: SandboxSnapshot, artifact: Artifact, source: Source, policy: Policy
) -> PodTemplateMetadata:
    theirs = source.template.spec.pod_template.metadata
    allowed = policy.build_annotation_prefixes
    annotations = {
        key: value
        for key, value in (theirs.annotations or {}).items()
        if key.startswith(allowed) and not key.startswith(_FOREIGN_PREFIXES)
    }
    labels = {
        key: value
        for key, value in (theirs.labels or {}).items()
        if not key.startswith(_FOREIGN_PREFIXES)
    }
    ours = source.snapshot_class.spec.build_pod_annotations or {}
    return PodTemplateMetadata(
        labels={**labels, **_labels(snapshot, artifact), names.TEMPLATE_SANDBOX: "true"},
        annotations={
            **annotations,
            **{key: value for key, value in ours.items() if not key.startswith(names.PREFIX)},
            **trace_annotations(snapshot, artifact, policy),
            names.TEMPLATE_SANDBOX: "true",
        },
    )


def _labels(snapshot: SandboxSnapshot, artifact: Artifact) -> dict[str, str]:
    return {
        names.SNAPSHOT_UID: snapshot.metadata.uid,
        names.SNAPSHOT_KEY_ID: key_id(artifact.snapshot_key),
        names.TARGET_NODE: label_value(artifact.node_name),
    }


def _controller(snapshot: SandboxSnapshot) -> OwnerReference:
    return replace(owner_of(snapshot), block_owner_deletion=True)
