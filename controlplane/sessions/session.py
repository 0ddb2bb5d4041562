"""Read what a new Sandbox is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from controlplane.api import names
from controlplane.api.builds import is_marked_build
from controlplane.api.core import PodTemplate, Sandbox, SandboxSpec

_PREFIXES: Final = tuple(one for one in names.PROVIDER_RESTORE_PREFIXES if one.endswith(("-", "/")))
_WHOLE: Final = frozenset((names.SNAPSHOT_KEY, *names.PROVIDER_RESTORE_PREFIXES))
_SELECTORS: Final = frozenset((names.SNAPSHOT_KEY, *names.PROVIDER_SELECTORS))


@dataclass(frozen=True)
class SessionStart:
    """What a session is about to run. template: a SandboxTemplate's name, empty if unknown.

    name: the Sandbox's, which its Pod takes over. session_id: AgentCube's. Both are empty where
    nobody knows them yet, as for what a pool makes ahead of its sessions.
    """

    namespace: str
    template: str
    spec: SandboxSpec
    name: str = ""
    session_id: str = ""


def session_of(sandbox: Sandbox, namespace: str) -> SessionStart:
    """What this Sandbox asks for. namespace: where it is created, which it may not say itself."""
    meta = sandbox.metadata
    session_id = meta.label(names.SESSION_ID) or session_id_of(sandbox.spec.pod_template)
    return SessionStart(namespace, template_name(sandbox), sandbox.spec, meta.name, session_id)


def without_restore_annotations(spec: SandboxSpec) -> SandboxSpec:
    """The same without what its author says about restoring, which is never listened to."""
    metadata = spec.pod_template.metadata
    found = metadata.annotations or {}
    if not any(is_restore_annotation(key) for key in found):
        return spec
    kept = {key: value for key, value in found.items() if not is_restore_annotation(key)}
    pod_template = msgspec.structs.replace(
        spec.pod_template, metadata=msgspec.structs.replace(metadata, annotations=kept)
    )
    return msgspec.structs.replace(spec, pod_template=pod_template)


def is_restore_annotation(key: str) -> bool:
    """A runtime would restore by it."""
    return key in _WHOLE or key.startswith(_PREFIXES)


def is_selector(key: str) -> bool:
    """By itself it makes a Pod a restore, which a build never is."""
    return key in _SELECTORS


def session_id_of(pod_template: PodTemplate) -> str:
    """AgentCube's session, which it notes on its Pods; empty if there is none."""
    return (pod_template.metadata.labels or {}).get(names.SESSION_ID, "")


def template_name(sandbox: Sandbox) -> str:
    """The template that a Sandbox comes from.

    agent-sandbox names it in an annotation of what its pools and claims make; AgentCube's direct
    Sandboxes carry the workload's name, which is the template's name, as a label.
    """
    meta, pod = sandbox.metadata, sandbox.spec.pod_template.metadata
    return (
        meta.annotation(names.SANDBOX_TEMPLATE_REF)
        or meta.label(names.SANDBOX_TEMPLATE_REF)
        or meta.label(names.WORKLOAD_NAME)
        or (pod.labels or {}).get(names.WORKLOAD_NAME, "")
    )


def is_build(sandbox: Sandbox) -> bool:
    """It says that it is a build Sandbox: such a one never gets a restore intent."""
    owner = sandbox.metadata.controller
    return (
        is_marked_build(sandbox.metadata)
        and owner is not None
        and owner.kind == "SandboxSnapshot"
        and owner.api_version.partition("/")[0] == names.GROUP
    )


def is_pool_made(sandbox: Sandbox) -> bool:
    """A SandboxWarmPool made it and still holds it."""
    owner = sandbox.metadata.controller
    return (
        owner is not None
        and owner.kind == "SandboxWarmPool"
        and owner.api_version.partition("/")[0] == names.EXTENSIONS_GROUP
    )
