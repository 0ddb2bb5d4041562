"""Put defects into agent, session path, store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from agentd.node import provider_labels, task_plan, task_target, tasks
from agentd.node.task_look import Look
from agentd.node.tasks import TaskReconciler
from controlplane.api.types import SnapshotPhase
from controlplane.kube.resource import TASKS
from controlplane.sessions import choose, index, lookup
from controlplane.store import codec

from .planted_control import Patches


def agent_tries_for_ever() -> Patches:
    return [
        (task_plan, "_within_time", lambda decision, *_: decision),
        (tasks, "retry_delay_s", lambda _: 1.0),
        (task_plan, "_back_off", lambda *_: None),
    ]


def target_is_not_checked() -> Patches:
    return [(task_target, "_why_no_build", lambda *_: "")]


def observed_at_is_forgotten() -> Patches:
    real = TaskReconciler._write

    async def write(self: TaskReconciler, task: Any, changes: Any) -> None:
        if changes.get("phase") != "Creating":
            await real(self, task, changes)
            return
        meta = task.metadata
        patch = {"metadata": {"resourceVersion": meta.resource_version}, "status": changes}
        await self._kube.merge(
            TASKS, meta.name, patch, namespace=meta.namespace, subresource="status"
        )

    return [(TaskReconciler, "_write", write)]


def errors_mean_absent() -> Patches:
    async def inspect(driver: Any, key: str) -> Any:
        try:
            return await driver.inspect(key), ""
        except Exception:
            return None, ""

    return [(Look, "_inspect", staticmethod(inspect))]


def labels_are_set_once() -> Patches:
    real = provider_labels.ProviderLabels.refresh

    async def refresh(self: Any) -> None:
        if not getattr(self, "is_done", False):
            await real(self)
            self.is_done = True

    return [(provider_labels.ProviderLabels, "refresh", refresh)]


def driver_is_called_twice() -> Patches:
    real = TaskReconciler._begin

    async def begin(self: TaskReconciler, task: Any, order: Any) -> None:
        await real(self, task, order)
        self._runs.pop((task.metadata.namespace, task.metadata.name), None)
        self._queue.add((task.metadata.namespace, task.metadata.name))

    return [(TaskReconciler, "_begin", begin), (task_plan, "_back_off", lambda *_: None)]


def hash_is_not_compared() -> Patches:
    real = choose.choose_key

    def choose_key(snapshot: Any, manifest: Any, snapshot_class: Any, session_hash: str) -> Any:
        if manifest is not None and manifest.active is not None:
            session_hash = manifest.active.snapshot_hash
        return real(snapshot, manifest, snapshot_class, session_hash)

    return [(lookup, "choose_key", choose_key)]


def going_ones_serve() -> Patches:
    def is_candidate(snapshot: Any) -> bool:
        return snapshot.status is not None and snapshot.status.phase is SnapshotPhase.READY

    return [(index, "is_candidate", is_candidate)]


def version_is_marshalled_again() -> Patches:
    real = codec.decode

    def decode(key: Any, raw: bytes) -> Any:
        found = real(key, raw)
        return replace(found, version=msgspec.json.encode(found.manifest).decode())

    return [(codec, "decode", decode)]
