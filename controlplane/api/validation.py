"""Judge objects of the API: what the CRDs refuse, repeated here, with what only code can see.

The controller asks again at reconcile, because webhook or CEL rules may not have been there when an
object was written.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from controlplane.api import names
from controlplane.api.crd_fields import (
    DURATION_PATTERN,
    HASH_PATTERN,
    LABEL_VALUE_PATTERN,
    MIN_REBUILD_AFTER,
    NAME_MAX,
    SUBDOMAIN_PATTERN,
)
from controlplane.api.durations import parse_duration_ns
from controlplane.api.meta import TypedReference
from controlplane.api.types import (
    SandboxSnapshot,
    SandboxSnapshotSpec,
    SandboxSnapshotTask,
    SandboxSnapshotTaskSpec,
    SnapshotClass,
    SnapshotClassSpec,
    SnapshotMode,
    TaskOperation,
)

_QUALIFIED_NAME: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_SUBDOMAIN: Final = re.compile(SUBDOMAIN_PATTERN)
_LABEL_VALUE: Final = re.compile(LABEL_VALUE_PATTERN)
_SOURCES: Final = {
    SnapshotMode.FORK: (names.EXTENSIONS_GROUP, "SandboxTemplate"),
    SnapshotMode.RESUME: (names.SANDBOX_GROUP, "Sandbox"),
}


class ProblemKind(enum.StrEnum):
    """What sort of problem; the values are the reasons of the events that report it."""

    INVALID = "InvalidSpec"
    MODE_NOT_IMPLEMENTED = "UnsupportedSnapshotMode"
    MODE_NOT_SUPPORTED = "SnapshotModeNotSupported"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. field: its dotted path, empty for the whole object."""

    field: str
    message: str
    kind: ProblemKind = ProblemKind.INVALID

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def describe_problems(problems: Iterable[Problem]) -> str:
    """All of them in one line."""
    return "; ".join(str(problem) for problem in problems)


def validate_snapshot(
    snapshot: SandboxSnapshot,
    snapshot_class: SnapshotClass | None = None,
    old: SandboxSnapshot | None = None,
) -> list[Problem]:
    """What is wrong with a SandboxSnapshot; empty if nothing.

    Args: snapshot_class: the class it names, None if absent, which is no problem here: it may come
    later. old: the object before this update, None on creation or at reconcile.
    """
    spec = snapshot.spec
    problems = _check_mode(spec.snapshot_mode, snapshot_class)
    problems += _check_source(spec)
    problems += _check_name("spec.snapshotClassName", spec.snapshot_class_name)
    problems += _check_policy(spec)
    return problems + (_check_unchanged(spec, old.spec) if old is not None else [])


def validate_class(
    snapshot_class: SnapshotClass,
    old: SnapshotClass | None = None,
    used_modes: Collection[SnapshotMode] = (),
) -> list[Problem]:
    """What is wrong with a SnapshotClass. used_modes: those of the live snapshots that name it."""
    spec = snapshot_class.spec
    problems = _check_provider("spec.providerName", spec.provider_name)
    problems += _check_modes(spec, used_modes)
    problems += _check_pairs(spec)
    if old is not None and spec.provider_name != old.spec.provider_name:
        advice = "cannot be changed; create another SnapshotClass"
        problems.append(Problem("spec.providerName", f"providerName {advice}"))
    return problems


def validate_task(
    task: SandboxSnapshotTask, old: SandboxSnapshotTask | None = None
) -> list[Problem]:
    """What is wrong with a SandboxSnapshotTask."""
    spec = task.spec
    problems = _check_reference(
        "spec.snapshotRef", spec.snapshot_ref, names.GROUP, "SandboxSnapshot"
    )
    if spec.operation is TaskOperation.CREATE:
        problems += _check_reference(
            "spec.targetSandboxRef", spec.target_sandbox_ref, names.SANDBOX_GROUP, "Sandbox"
        )
    problems += _check_mode(spec.snapshot_mode, None)
    problems += _check_provider("spec.providerName", spec.provider_name)
    problems += _check_task_texts(spec)
    if old is not None and spec != old.spec:
        problems.append(Problem("spec", "the spec of a task cannot be changed; delete the task"))
    return problems


def validate_task_author(user: str, controllers: Collection[str]) -> list[Problem]:
    """Whether a user may create tasks. controllers: user names of the snapshot controllers."""
    if user in controllers:
        return []
    return [Problem("", f"only the snapshot controller creates tasks, {user!r} is not it")]


def validate_pod_annotations(annotations: Mapping[str, str] | None, field: str) -> list[Problem]:
    """Annotations that would restore a snapshot of somebody's choice."""
    return [
        Problem(f"{field}[{key}]", "is put in by SnapStart alone; remove it")
        for key in sorted(annotations or {})
        if key == names.SNAPSHOT_KEY or key.startswith(names.PROVIDER_RESTORE_PREFIXES)
    ]


def _check_mode(mode: SnapshotMode, snapshot_class: SnapshotClass | None) -> list[Problem]:
    field = "spec.snapshotMode"
    if mode is SnapshotMode.RESUME:
        message = "mode Resume is not implemented yet; use Fork"
        return [Problem(field, message, ProblemKind.MODE_NOT_IMPLEMENTED)]
    if snapshot_class is None or mode in snapshot_class.spec.supported_snapshot_modes:
        return []
    offered = ", ".join(snapshot_class.spec.supported_snapshot_modes)
    message = f"SnapshotClass {snapshot_class.metadata.name!r} supports {offered}, not {mode}"
    return [Problem(field, message, ProblemKind.MODE_NOT_SUPPORTED)]


def _check_source(spec: SandboxSnapshotSpec) -> list[Problem]:
    group, kind = _SOURCES[spec.snapshot_mode]
    return _check_reference("spec.sourceRef", spec.source_ref, group, kind)


def _check_reference(field: str, reference: TypedReference, group: str, kind: str) -> list[Problem]:
    problems = _check_name(f"{field}.name", reference.name)
    if (reference.api_group, reference.kind) != (group, kind):
        found = f"{reference.kind!r} of the API group {reference.api_group!r}"
        problems.append(Problem(field, f"must be a {kind} of the API group {group}, not {found}"))
    return problems


def _check_name(field: str, name: str) -> list[Problem]:
    if not name:
        return [Problem(field, "must not be empty")]
    if len(name) > NAME_MAX or not _SUBDOMAIN.fullmatch(name):
        return [Problem(field, f"{name!r} is no name that an object can have")]
    return []


def _check_policy(spec: SandboxSnapshotSpec) -> list[Problem]:
    if spec.fork_policy is None:
        return []
    if spec.snapshot_mode is SnapshotMode.RESUME:
        message = "forkPolicy belongs to mode Fork; remove it or choose Fork"
        return [Problem("spec.forkPolicy", message)]
    after = spec.fork_policy.rebuild_after
    return [] if after is None else _check_rebuild_after(after)


def _check_rebuild_after(text: str) -> list[Problem]:
    field = "spec.forkPolicy.rebuildAfter"
    if not re.fullmatch(DURATION_PATTERN, text):
        return [Problem(field, f"{text!r} is no duration such as 24h, 90m or 1h30m")]
    try:
        is_long = parse_duration_ns(text) >= parse_duration_ns(MIN_REBUILD_AFTER)
    except ValueError as exc:
        return [Problem(field, str(exc))]
    return [] if is_long else [Problem(field, f"must be at least {MIN_REBUILD_AFTER}")]


def _check_unchanged(new: SandboxSnapshotSpec, old: SandboxSnapshotSpec) -> list[Problem]:
    pairs = {
        "snapshotMode": new.snapshot_mode == old.snapshot_mode,
        "sourceRef": new.source_ref == old.source_ref,
    }
    advice = "cannot be changed; create another SandboxSnapshot"
    return [
        Problem(f"spec.{name}", f"{name} {advice}")
        for name, is_same in pairs.items()
        if not is_same
    ]


def _check_provider(field: str, name: str) -> list[Problem]:
    if len(name) <= names.PROVIDER_NAME_MAX and _SUBDOMAIN.fullmatch(name):
        return []
    wanted = f"a lower-case DNS name of 1 to {names.PROVIDER_NAME_MAX} characters"
    return [Problem(field, f"{name!r} is not {wanted}")]


def _check_modes(spec: SnapshotClassSpec, used_modes: Collection[SnapshotMode]) -> list[Problem]:
    field, modes = "spec.supportedSnapshotModes", spec.supported_snapshot_modes
    problems = [] if modes else [Problem(field, "must name at least one mode")]
    if len(set(modes)) != len(modes):
        problems.append(Problem(field, "names a mode twice"))
    if lost := sorted(set(used_modes) - set(modes)):
        message = f"live snapshots use {', '.join(lost)}; delete them first"
        problems.append(Problem(field, message))
    return problems


def _check_pairs(spec: SnapshotClassSpec) -> list[Problem]:
    selector, annotations = spec.node_selector or {}, spec.build_pod_annotations or {}
    problems = _check_keys("spec.nodeSelector", selector)
    problems += [
        Problem(f"spec.nodeSelector[{key}]", f"{value!r} is no value that a label can have")
        for key, value in sorted(selector.items())
        if len(value) > 63 or not _LABEL_VALUE.fullmatch(value)
    ]
    problems += _check_keys("spec.buildPodAnnotations", annotations)
    problems += [
        Problem(
            f"spec.buildPodAnnotations[{key}]",
            f"annotations under {names.PREFIX} are SnapStart's own; remove it",
        )
        for key in sorted(annotations)
        if key.startswith(names.PREFIX)
    ]
    return problems


def _check_keys(field: str, pairs: Mapping[str, str]) -> list[Problem]:
    return [
        Problem(f"{field}[{key}]", "is no key that a label or an annotation can have")
        for key in sorted(pairs)
        if not _is_qualified(key)
    ]


def _is_qualified(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > NAME_MAX or not _SUBDOMAIN.fullmatch(prefix)):
        return False
    return len(name) <= 63 and bool(_QUALIFIED_NAME.fullmatch(name))


def _check_task_texts(spec: SandboxSnapshotTaskSpec) -> list[Problem]:
    problems = _check_name("spec.targetNodeName", spec.target_node_name)
    problems += _check_name("spec.snapshotKey", spec.snapshot_key)
    if len(spec.snapshot_key) > 63:
        problems.append(Problem("spec.snapshotKey", "is longer than 63 characters"))
    if not spec.snapshot_uid:
        problems.append(Problem("spec.snapshotUID", "must not be empty"))
    if not re.fullmatch(HASH_PATTERN, spec.snapshot_hash):
        problems.append(Problem("spec.snapshotHash", f"{spec.snapshot_hash!r} is no SHA-256"))
    return problems
