"""Carry out the SandboxSnapshotTasks of this node.

A look at a task reads what it is about from the API server and the driver, decides by `plan_task`,
and writes its status. What takes long runs in a task of its own, so that one build holds up nothing
else; its outcome is kept here until the API server has taken it. A successor that knows of none
finds the artifact, or not, and goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import Any, Final

from agentd.engine.tasks import Tasks
from agentd.engine.trace import Tracer
from agentd.node.failures import Failure, classify_failure
from agentd.node.task_look import LIGHT_S, Look, Place
from agentd.node.task_plan import plan_task, retry_delay_s
from agentd.node.task_types import Create, Decision, Delete, Report, Wait
from agentd.providers.driver import SnapshotDriver
from agentd.tracing import enter
from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.api.types import (
    ArtifactPhase,
    SandboxSnapshotTask,
    SandboxSnapshotTaskStatus,
)
from controlplane.kube.api import KubeApi
from controlplane.kube.events import reference
from controlplane.kube.informer import Informer
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.resource import TASKS
from controlplane.kube.workers import WorkQueue

Key = tuple[str, str]
CREATE_S: Final = 600.0
_STOP_S: Final = 30.0


@dataclass
class _Run:
    """An operation of the driver that is under way, or its outcome, for one task object."""

    uid: str
    work: asyncio.Task[None] | None = None
    outcome: Report | Failure | None = None


class TaskReconciler:
    """Owns what runs for each task; `close` cancels it.

    Args: informer: of this node's tasks. drivers: by provider name. now: aware, in UTC.
    """

    def __init__(
        self,
        kube: KubeApi,
        informer: Informer[SandboxSnapshotTask],
        queue: WorkQueue[Key],
        drivers: Mapping[str, SnapshotDriver],
        place: Place,
        events: EventRecorder,
        tracer: Tracer,
        now: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._informer = informer
        self._queue = queue
        self._drivers = drivers
        self._look = Look(kube, drivers, place)
        self._events = events
        self._tracer = tracer
        self._now = now
        self._runs: dict[Key, _Run] = {}
        self._tasks = Tasks(tracer)

    async def close(self) -> None:
        """Cancel what runs, wait for it."""
        await self._tasks.stop(_STOP_S)

    async def reconcile(self, key: Key) -> float | None:
        """Look at one task. Returns: seconds until the next look, None: when it changes.

        Raises: ControlPlaneError; the look is repeated then.
        """
        namespace, name = key
        task = self._informer.get(name, namespace)
        run = self._runs.get(key)
        if run is not None and (
            task is None or task.metadata.uid != run.uid or task.metadata.is_terminating
        ):
            await self._abandon(key, run)
            run = None
        if task is None:
            return None
        if run is None:
            return await self._perform(task, plan_task(await self._look.at(task), self._now()))
        if run.outcome is None:
            return None
        delay_s = await self._settle(task, run.outcome)
        del self._runs[key]
        return delay_s

    async def _abandon(self, key: Key, run: _Run) -> None:
        """The task is gone, so nobody wants its outcome."""
        if run.work is not None:
            run.work.cancel()
            await asyncio.wait({run.work})
        self._runs.pop(key, None)
        self._tracer.step("task.abandoned", task=key[1])

    # -- acting -----------------------------------------------------------------------------

    async def _perform(self, task: SandboxSnapshotTask, decision: Decision) -> float | None:
        match decision:
            case Report():
                await self._finish(task, decision)
            case Wait():
                await self._note(task, decision)
                return decision.delay_s
            case Create() | Delete():
                await self._begin(task, decision)
        return None

    async def _note(self, task: SandboxSnapshotTask, wait: Wait) -> None:
        status = task.status or SandboxSnapshotTaskStatus()
        if (status.phase, status.message) == (ArtifactPhase.CREATING, wait.message):
            return
        if wait.event:
            self._events.warning(reference(TASKS, task), wait.event, wait.message)
        await self._write(task, {"phase": ArtifactPhase.CREATING.value, "message": wait.message})

    async def _begin(self, task: SandboxSnapshotTask, order: Create | Delete) -> None:
        """The attempt is counted before it is made."""
        status = task.status or SandboxSnapshotTaskStatus()
        changes: JsonObject = {
            "phase": ArtifactPhase.CREATING.value,
            "message": "building" if isinstance(order, Create) else "deleting",
            "attempts": status.attempts + 1,
        }
        if status.started_at is None:
            changes["startedAt"] = _rfc3339(self._now())
        if isinstance(order, Create):
            changes["podUID"] = order.request.pod_uid
        await self._write(task, changes)
        meta = task.metadata
        key = (meta.namespace, meta.name)
        run = self._runs[key] = _Run(meta.uid)
        driver = self._drivers[task.spec.provider_name]
        work = _create(driver, order) if isinstance(order, Create) else _delete(driver, order)
        run.work = self._tasks.start(f"task:{meta.name}", self._run(task, run, work))

    async def _run(
        self, task: SandboxSnapshotTask, run: _Run, work: Coroutine[Any, Any, Report]
    ) -> None:
        meta, begun_s = task.metadata, perf_counter()
        enter(meta.annotation(names.TRACEPARENT))
        try:
            run.outcome = await work
        except Exception as exc:
            run.outcome = classify_failure(exc)
            self._tracer.step("task.attempt.failed", task=meta.name, error=run.outcome.message)
        self._tracer.step(
            "task.attempted",
            task=meta.name,
            operation=task.spec.operation.value,
            provider=task.spec.provider_name,
            elapsed_ms=round((perf_counter() - begun_s) * 1000, 3),
            error=run.outcome.message if isinstance(run.outcome, Failure) else "",
        )
        self._queue.add((meta.namespace, meta.name))

    async def _settle(self, task: SandboxSnapshotTask, outcome: Report | Failure) -> float | None:
        if isinstance(outcome, Report):
            await self._finish(task, outcome)
            return None
        if outcome.is_final:
            await self._finish(task, Report(ArtifactPhase.FAILED, outcome.message, outcome.event))
            return None
        self._events.warning(reference(TASKS, task), outcome.event, outcome.message)
        await self._write(task, {"message": outcome.message})
        return retry_delay_s(task.status.attempts if task.status else 1)

    async def _finish(self, task: SandboxSnapshotTask, report: Report) -> None:
        await self._write(task, {"phase": report.phase.value, "message": report.message})
        if report.event:
            is_good = report.phase is ArtifactPhase.READY
            tell = self._events.normal if is_good else self._events.warning
            message = report.message or f"artifact {task.spec.snapshot_key} is ready"
            tell(reference(TASKS, task), report.event, message)
        self._tracer.step(
            "task.settled",
            task=task.metadata.name,
            phase=report.phase.value,
            message=report.message,
        )

    async def _write(self, task: SandboxSnapshotTask, changes: JsonObject) -> None:
        """Every write says when; only on the version that the decision was about."""
        meta = task.metadata
        patch = {
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": {**changes, "observedAt": _rfc3339(self._now())},
        }
        await self._kube.merge(
            TASKS, meta.name, patch, namespace=meta.namespace, subresource="status"
        )


async def _create(driver: SnapshotDriver, order: Create) -> Report:
    async with asyncio.timeout(CREATE_S):
        await driver.create(order.request)
    return Report(ArtifactPhase.READY, event="SnapshotCreated")


async def _delete(driver: SnapshotDriver, order: Delete) -> Report:
    async with asyncio.timeout(LIGHT_S):
        await driver.delete(order.key)
    return Report(ArtifactPhase.READY)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
