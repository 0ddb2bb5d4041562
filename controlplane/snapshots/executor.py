"""Perform the steps of a plan, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from controlplane.api.manifest import Artifact
from controlplane.api.types import SandboxSnapshot
from controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ControlPlaneError,
    ForbiddenError,
    NotFoundError,
    RejectedError,
)
from controlplane.kube.api import KubeApi
from controlplane.kube.events import ObjectRef, reference
from controlplane.kube.resource import SNAPSHOTS
from controlplane.kube.sandboxes import SandboxVersion
from controlplane.snapshots.calls import Verb, call_of, is_confirmed
from controlplane.snapshots.metrics import SnapshotMetrics
from controlplane.snapshots.steps import (
    ConfirmSnapshot,
    Count,
    CreateBuildSandbox,
    CreateTask,
    DeleteManifest,
    EmitEvent,
    Plan,
    PutManifest,
    Step,
)
from controlplane.store.store import ArtifactStore, OwnerKey

# What is so already needs no doing: a name says exactly what the object is for, a UID which one.
_AS_GOOD: Final = {Verb.CREATE: (AlreadyExistsError,), Verb.DELETE: (NotFoundError,)}


Trace = Callable[[SandboxSnapshot, Artifact], None]


class Recorder(Protocol):
    """Where events go; never waits, never fails."""

    def normal(self, about: ObjectRef, reason: str, message: str) -> None:
        """Something went as it should."""

    def warning(self, about: ObjectRef, reason: str, message: str) -> None:
        """Somebody may have to look."""


class Executor:
    """Args: recorder: None writes no events. version: of agent-sandbox's API. trace: is told of
    each build that is over; None where nobody traces.
    """

    def __init__(
        self,
        api: KubeApi,
        store: ArtifactStore,
        metrics: SnapshotMetrics,
        recorder: Recorder | None,
        version: SandboxVersion,
        trace: Trace | None = None,
    ) -> None:
        self._api = api
        self._store = store
        self._metrics = metrics
        self._recorder = recorder
        self._version = version
        self._trace = trace

    async def perform(self, plan: Plan, snapshot: SandboxSnapshot) -> dict[str, str]:
        """Perform the plan up to its first failure, which is raised; nothing is tried twice.

        A build Sandbox or a task that the API server will not have is no failure of the run: one
        node's must not keep others waiting. The next plan judges it.
        Returns: why, by the name of what was refused; `Observed.refused`.
        Cancellation: the step under way may or may not have had its effect, later ones have not.
        """
        refused: dict[str, str] = {}
        for step in plan.steps:
            try:
                await self._perform(step, snapshot)
            except (RejectedError, ForbiddenError) as exc:
                refused[name_refused(step, exc)] = exc.message
        return refused

    async def _perform(self, step: Step, snapshot: SandboxSnapshot) -> None:
        match step:
            case PutManifest():
                await self._store.put(owner_key(snapshot), step.manifest, step.version)
            case DeleteManifest():
                await self._store.delete(owner_key(snapshot), step.version)
            case Count():
                self._metrics.take(step)
                if step.about is not None and self._trace is not None:
                    self._trace(snapshot, step.about)
            case EmitEvent():
                self._emit(step, snapshot)
            case _:
                await self._call(step, snapshot)

    async def _call(self, step: Step, snapshot: SandboxSnapshot) -> None:
        call = call_of(step, snapshot, self._version)
        assert call is not None, step
        method: Any = getattr(self._api, call.verb.value)
        with suppress(*_AS_GOOD.get(call.verb, ())):
            answer = await method(*call.args, **call.kwargs)
            if isinstance(step, ConfirmSnapshot) and not is_confirmed(step, answer, snapshot):
                name = f"{snapshot.metadata.namespace}/{snapshot.metadata.name}"
                raise ConflictError(f"snapshot {name} was deleted, or is another one by now")

    def _emit(self, step: EmitEvent, snapshot: SandboxSnapshot) -> None:
        if self._recorder is None:
            return
        emit = self._recorder.warning if step.is_warning else self._recorder.normal
        emit(reference(SNAPSHOTS, snapshot), step.reason, step.message)


def name_refused(step: Step, exc: ControlPlaneError) -> str:
    """The name of what was to be made; another step's refusal is raised again."""
    match step:
        case CreateTask():
            return step.task.metadata.name
        case CreateBuildSandbox():
            return step.sandbox.metadata.name
    raise exc


def owner_key(snapshot: SandboxSnapshot) -> OwnerKey:
    """Whose manifest."""
    meta = snapshot.metadata
    return OwnerKey(meta.namespace, meta.name, meta.uid)
