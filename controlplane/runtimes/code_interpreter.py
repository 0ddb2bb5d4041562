"""Keep a SandboxTemplate for each CodeInterpreter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

import msgspec
import structlog

from controlplane.api.core import SandboxTemplate
from controlplane.api.meta import JsonObject
from controlplane.errors import NotFoundError, PeerError
from controlplane.kube.api import KubeApi
from controlplane.kube.cache import Named
from controlplane.kube.informer import Informer
from controlplane.kube.resource import CODE_INTERPRETERS, Resource
from controlplane.kube.workers import WorkQueue, run_workers
from controlplane.runtimes.plan import (
    FIELD_MANAGER,
    Emit,
    Memory,
    Observed,
    SetCondition,
    Step,
    WriteTemplate,
    plan_removal,
    plan_template,
)
from controlplane.runtimes.public_key import PublicKey
from controlplane.runtimes.types import CodeInterpreter

Key = tuple[str, str]  # namespace, name
Announce = Callable[[CodeInterpreter, Emit], Awaitable[None]]

_WORKERS: Final = 2
_log = structlog.get_logger(__name__)


class CodeInterpreterController:
    """Runs in the leading control plane alone.

    Args: templates: SandboxTemplate in the version that the cluster prefers. announce: makes an
    event. clock: UTC.
    """

    def __init__(
        self,
        api: KubeApi,
        templates: Resource,
        public_key: PublicKey,
        announce: Announce,
        clock: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._resource = templates
        self._public_key = public_key
        self._announce = announce
        self._clock = clock
        self._memories: dict[Key, Memory] = {}
        self._queue: WorkQueue[Key] = WorkQueue()
        self._interpreters = Informer(api, CODE_INTERPRETERS, CodeInterpreter)
        self._templates = Informer(api, templates, SandboxTemplate)
        self._interpreters.add_handler(self._enqueue)
        self._templates.add_handler(self._enqueue)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        self._interpreters.start()
        self._templates.start()
        try:
            await self._interpreters.wait_synced()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._public_key.run(self._enqueue_all), name="public-key")
                work = run_workers(self._queue, self.reconcile, _WORKERS, name="code-interpreter")
                group.create_task(work, name="code-interpreter")
        finally:
            await self._interpreters.stop()
            await self._templates.stop()

    async def reconcile(self, key: Key) -> float | None:
        """One CodeInterpreter; returns after how many seconds to look again.

        Raises: ControlPlaneError; then nothing is known of what was written: call again.
        """
        namespace, name = key
        owner = self._interpreters.get(name, namespace)
        if owner is None:
            self._memories.pop(key, None)
            return None
        now = self._clock()
        plan = plan_template(await self._observe(owner, key), now)
        if plan.steps:  # act on what is, not on a copy that may lag behind our own writes
            owner = await self._read(owner)
            plan = plan_template(await self._observe(owner, key), now)
        memory = plan.memory
        for step in plan.steps:
            accepted = await self._perform(step, owner)
            if accepted is not None:
                memory = self._memories[key] = replace(memory, accepted=accepted)
        self._memories[key] = memory
        if plan.look_again_at is None:
            return None
        return max(0.0, (plan.look_again_at - now).total_seconds())

    async def _read(self, owner: CodeInterpreter) -> CodeInterpreter:
        meta = owner.metadata
        body = await self._api.get(CODE_INTERPRETERS, meta.name, meta.namespace)
        try:
            return msgspec.convert(body, CodeInterpreter)
        except msgspec.ValidationError as exc:
            raise PeerError(f"read CodeInterpreter {meta.namespace}/{meta.name}: {exc}") from exc

    async def _observe(self, owner: CodeInterpreter, key: Key) -> Observed:
        namespace, name = key
        try:
            template = await self._api.get(self._resource, name, namespace)
        except NotFoundError:
            template = None
        return Observed(
            owner,
            template,
            self._resource.api_version,
            self._public_key.value,
            self._memories.get(key, Memory()),
        )

    async def _perform(self, step: Step, owner: CodeInterpreter) -> JsonObject | None:
        """Returns: what the API server made of the Pod template, if the step wrote it."""
        if isinstance(step, WriteTemplate):
            return await self._write(step)
        if isinstance(step, SetCondition):
            await self._set_condition(step, owner)
        else:
            await self._announce(owner, step)
        return None

    async def _write(self, step: WriteTemplate) -> JsonObject:
        """Apply sets our fields; what others have added is taken out by a patch of its own."""
        wanted: JsonObject = step.body["spec"]["podTemplate"]
        name, namespace = step.body["metadata"]["name"], step.body["metadata"]["namespace"]
        made = await self._api.apply(
            self._resource, step.body, manager=FIELD_MANAGER, force=not step.is_new
        )
        if removal := plan_removal(made["spec"]["podTemplate"], wanted):
            version = made["metadata"]["resourceVersion"]
            patch = {
                "metadata": {"resourceVersion": version},
                "spec": {"podTemplate": removal},
            }
            made = await self._api.merge(self._resource, name, patch, namespace=namespace)
        _log.info("template.applied", namespace=namespace, name=name, is_new=step.is_new)
        accepted: JsonObject = made["spec"]["podTemplate"]
        return accepted

    async def _set_condition(self, step: SetCondition, owner: CodeInterpreter) -> None:
        """The list has several writers and no keys, so it is replaced only as it was read."""
        meta = owner.metadata
        patch = {
            "metadata": {"resourceVersion": meta.resource_version},
            "status": {"conditions": list(step.conditions)},
        }
        await self._api.merge(
            CODE_INTERPRETERS, meta.name, patch, namespace=meta.namespace, subresource="status"
        )

    def _enqueue(self, old: Named | None, new: Named | None) -> None:
        found = new or old
        if found is not None:
            self._queue.add((found.metadata.namespace, found.metadata.name))

    def _enqueue_all(self) -> None:
        for owner in self._interpreters.all():
            self._queue.add((owner.metadata.namespace, owner.metadata.name))
