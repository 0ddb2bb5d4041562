"""Translate steps into what the API server is asked."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.api.types import SandboxSnapshot
from controlplane.kube.resource import SNAPSHOTS, TASKS
from controlplane.kube.sandboxes import SandboxVersion, running_spec
from controlplane.snapshots.steps import (
    AddFinalizer,
    BuildSandbox,
    ConfirmSnapshot,
    CreateBuildSandbox,
    CreateTask,
    DeleteSandbox,
    DeleteTask,
    RemoveFinalizer,
    RemoveForceRebuild,
    Step,
    WriteStatus,
)


class Verb(enum.StrEnum):
    """A method of KubeApi."""

    GET = "get"
    CREATE = "create"
    MERGE = "merge"
    DELETE = "delete"


@dataclass(frozen=True)
class Call:
    """One call of KubeApi; `args`, `kwargs` are that method's."""

    verb: Verb
    args: tuple[Any, ...]
    kwargs: dict[str, str] = field(default_factory=dict)


def call_of(step: Step, snapshot: SandboxSnapshot, version: SandboxVersion) -> Call | None:
    """The call that a step is; None if it is none of Kubernetes.

    Args: snapshot: as it was observed: what is written to it is written only if it still is so.
    """
    meta = snapshot.metadata
    namespace = {"namespace": meta.namespace}
    match step:
        case ConfirmSnapshot():
            return Call(Verb.GET, (SNAPSHOTS, meta.name), namespace)
        case AddFinalizer() | RemoveFinalizer() | RemoveForceRebuild():
            return Call(
                Verb.MERGE, (SNAPSHOTS, meta.name, _metadata_patch(step, snapshot)), namespace
            )
        case WriteStatus():
            return Call(
                Verb.MERGE,
                (SNAPSHOTS, meta.name, _status_patch(step, snapshot)),
                {**namespace, "subresource": "status"},
            )
        case CreateTask():
            kind = {"apiVersion": TASKS.api_version, "kind": TASKS.kind}
            return Call(Verb.CREATE, (TASKS, {**kind, **msgspec.to_builtins(step.task)}))
        case CreateBuildSandbox():
            body = _sandbox_body(step.sandbox, version)
            return Call(Verb.CREATE, (version.sandboxes, body))
        case DeleteTask():
            return Call(Verb.DELETE, (TASKS, step.name), {**namespace, "uid": step.uid})
        case DeleteSandbox():
            return Call(Verb.DELETE, (version.sandboxes, step.name), {**namespace, "uid": step.uid})
    return None


def is_confirmed(step: ConfirmSnapshot, body: JsonObject, snapshot: SandboxSnapshot) -> bool:
    """The answer says what the step is about: the same object, in a state that goes on."""
    meta = body.get("metadata") or {}
    is_same = meta.get("uid") == snapshot.metadata.uid
    return is_same and (step.may_be_going or not meta.get("deletionTimestamp"))


def _metadata_patch(
    step: AddFinalizer | RemoveFinalizer | RemoveForceRebuild, snapshot: SandboxSnapshot
) -> JsonObject:
    meta = snapshot.metadata
    others = [one for one in meta.finalizers or () if one != names.SNAPSHOT_FINALIZER]
    change: JsonObject
    match step:
        case AddFinalizer():
            change = {"finalizers": [*others, names.SNAPSHOT_FINALIZER]}
        case RemoveFinalizer():
            change = {"finalizers": others}
        case RemoveForceRebuild():
            change = {"annotations": {names.FORCE_REBUILD: None}}
    return {"metadata": {"resourceVersion": meta.resource_version, **change}}


def _status_patch(step: WriteStatus, snapshot: SandboxSnapshot) -> JsonObject:
    """A merge patch: what is null in it is taken away."""
    version = {"resourceVersion": snapshot.metadata.resource_version}
    return {"metadata": version, "status": msgspec.to_builtins(step.status)}


def _sandbox_body(sandbox: BuildSandbox, version: SandboxVersion) -> JsonObject:
    return {
        "apiVersion": version.sandboxes.api_version,
        "kind": version.sandboxes.kind,
        "metadata": msgspec.to_builtins(sandbox.metadata),
        "spec": {
            **running_spec(version),
            "podTemplate": msgspec.to_builtins(sandbox.pod_template),
            "shutdownTime": f"{sandbox.shutdown_time:%Y-%m-%dT%H:%M:%SZ}",
            "shutdownPolicy": "Delete",
        },
    }
