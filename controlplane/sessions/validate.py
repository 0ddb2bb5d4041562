"""Refuse objects that CEL cannot judge (validating admission)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec
import structlog

from controlplane.api import names
from controlplane.api.kuasar import validate_kuasar_class
from controlplane.api.types import SandboxSnapshot, SandboxSnapshotTask, SnapshotClass
from controlplane.api.validation import (
    Problem,
    describe_problems,
    validate_class,
    validate_pod_annotations,
    validate_snapshot,
    validate_task,
    validate_task_author,
)
from controlplane.errors import RejectedError
from controlplane.sessions.index import SessionIndex
from controlplane.sessions.metrics import BadReview, SessionMetrics
from controlplane.sessions.review import AdmissionRequest, Operation, allow, deny, read_review

_DEPTH_MAX: Final = 12
_log = structlog.get_logger(__name__)
T = TypeVar("T")


class ObjectValidator:
    """index: classes with the snapshots that use them. controllers: user names of ours."""

    def __init__(
        self, index: SessionIndex, metrics: SessionMetrics, controllers: frozenset[str]
    ) -> None:
        self._index = index
        self._metrics = metrics
        self._controllers = controllers
        self._judges: Mapping[str, Callable[[AdmissionRequest], list[Problem]]] = {
            "SandboxSnapshot": self._judge_snapshot,
            "SnapshotClass": self._judge_class,
            "SandboxSnapshotTask": self._judge_task,
            "CodeInterpreter": _judge_runtime,
            "AgentRuntime": _judge_runtime,
        }

    def answer(self, body: bytes) -> bytes:
        """The AdmissionReview that answers this one."""
        try:
            request = read_review(body)
        except RejectedError as exc:
            self._metrics.bad_review(BadReview.MALFORMED)
            _log.warning("admission.malformed", error=str(exc))
            return allow("")
        problems = self._judge(request)
        if not problems:
            return allow(request.uid)
        return deny(request.uid, describe_problems(problems))

    def _judge(self, request: AdmissionRequest) -> list[Problem]:
        judge = self._judges.get(request.kind.kind)
        is_write = request.operation in (Operation.CREATE, Operation.UPDATE)
        if judge is None or request.kind.group != names.GROUP or not is_write:
            return []
        if request.sub_resource or request.object is None or not _is_new(request):
            return []
        try:
            return judge(request)
        except msgspec.ValidationError as exc:
            return [Problem("", f"cannot be read: {exc}")]

    def _judge_snapshot(self, request: AdmissionRequest) -> list[Problem]:
        snapshot = msgspec.convert(request.object, SandboxSnapshot)
        old = _old(request, SandboxSnapshot)
        return validate_snapshot(
            snapshot, self._index.snapshot_class(snapshot.spec.snapshot_class_name), old
        )

    def _judge_class(self, request: AdmissionRequest) -> list[Problem]:
        snapshot_class = msgspec.convert(request.object, SnapshotClass)
        users = self._index.snapshots_of_class(snapshot_class.metadata.name)
        live = {one.spec.snapshot_mode for one in users if not one.metadata.is_terminating}
        problems = validate_class(snapshot_class, _old(request, SnapshotClass), live)
        return problems + validate_kuasar_class(snapshot_class)

    def _judge_task(self, request: AdmissionRequest) -> list[Problem]:
        problems: list[Problem] = []
        if request.operation is Operation.CREATE:
            problems += validate_task_author(request.user_info.username, self._controllers)
        task = msgspec.convert(request.object, SandboxSnapshotTask)
        return problems + validate_task(task, _old(request, SandboxSnapshotTask))


def _is_new(request: AdmissionRequest) -> bool:
    """An object that is going, or whose spec stays, is not judged: finalizers must come off."""
    body, old = request.object or {}, request.old_object
    if request.operation is Operation.CREATE or old is None:
        return True
    is_going = bool((body.get("metadata") or {}).get("deletionTimestamp"))
    return not is_going and body.get("spec") != old.get("spec")


def _old(request: AdmissionRequest, kind: type[T]) -> T | None:
    """The object before the update; one that cannot be read holds nothing to keep to."""
    if request.old_object is None:
        return None
    try:
        return msgspec.convert(request.old_object, kind)
    except msgspec.ValidationError:
        return None


def _judge_runtime(request: AdmissionRequest) -> list[Problem]:
    """A runtime's pod template may not choose what its sessions restore from."""
    body = request.object or {}
    return [
        problem
        for field, annotations in _annotation_maps(body.get("spec"), "spec", 0)
        for problem in validate_pod_annotations(annotations, field)
    ]


def _annotation_maps(
    value: object, field: str, depth: int
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Every map named annotations, wherever a version of the runtime's API has it."""
    if not isinstance(value, dict) or depth > _DEPTH_MAX:
        return
    for name, inner in value.items():
        if name == "annotations" and isinstance(inner, dict):
            yield f"{field}.{name}", inner
        else:
            yield from _annotation_maps(inner, f"{field}.{name}", depth + 1)
