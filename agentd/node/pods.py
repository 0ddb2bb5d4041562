"""Keep the Pods that are bound to this virtual node.

Level-triggered: whatever happened, one look at a Pod and at its runner says what to do, and doing
it twice does no harm. The API server is written to when a status is another one, and only then.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from agentd.engine.session import EndReason, Session
from agentd.errors import SnapStartError
from agentd.node.forwarders import POD_IP
from agentd.node.pod_machines import sessions_of_pods
from agentd.node.pod_runner import KILLED, PodRunner
from agentd.node.pod_spec import Bounds, Refusal, plan_pod
from agentd.node.pod_start import PodHost
from agentd.node.pod_status import (
    PodView,
    Stage,
    Termination,
    make_status,
    needs_write,
    refused_status,
)
from agentd.node.pod_types import Pod
from agentd.providers.local import POD_UID
from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.errors import NotFoundError
from controlplane.kube.events import reference
from controlplane.kube.informer import Informer
from controlplane.kube.resource import PODS
from controlplane.kube.workers import WorkQueue

Key = tuple[str, str]


@dataclass
class _Kept:
    """One Pod's runner; None if it is refused."""

    uid: str
    runner: PodRunner | None
    refusal: Refusal | None = None


class PodKeeper:
    """Owns a runner for each Pod; `close` leaves what runs to a successor."""

    def __init__(
        self, host: PodHost, informer: Informer[Pod], queue: WorkQueue[Key], bounds: Bounds
    ) -> None:
        self._host = host
        self._informer = informer
        self._queue = queue
        self._bounds = bounds
        self._kept: dict[Key, _Kept] = {}

    async def begin(self) -> None:
        """Set aside what Pods have, end the machines and the service of those that are gone.

        Only once the informer has listed them: its list is the server's own word.
        """
        alive = {pod.metadata.uid for pod in self._informer.all()}
        for pod in self._informer.all():
            self._host.addresses.reserve(str(pod.status.get("podIP") or ""))
        kept = set(alive)
        for session in sessions_of_pods(self._host.engine):
            labels = session.facts.labels
            if labels.get("cluster") != self._host.cluster or labels[POD_UID] in alive:
                self._host.addresses.reserve(labels.get(POD_IP, ""))
                kept.add(labels[POD_UID])
            else:
                await self._end_orphan(session)
        await self._host.forwarders.keep_only(kept)
        for build in self._host.engine.held.list():
            if build.labels.get(POD_UID, "") not in alive:
                await self._host.engine.held.drop(build.id, "vanished")
        await self._host.addresses.clean()

    async def _end_orphan(self, session: Session) -> None:
        self._host.tracer.step("pod.vanished", session=session.id)
        try:
            await self._host.engine.sessions.end(session.id, EndReason.DELETED)
        except SnapStartError as exc:
            self._host.tracer.step("pod.end.failed", session=session.id, error=str(exc))

    async def close(self) -> None:
        """Stop looking after Pods; their machines run on."""
        runners = [kept.runner for kept in self._kept.values() if kept.runner is not None]
        await asyncio.gather(*(runner.leave() for runner in runners))

    async def reconcile(self, key: Key) -> float | None:
        """Look at one Pod. Raises: ControlPlaneError; the look is repeated then."""
        namespace, name = key
        pod = self._informer.get(name, namespace)
        kept = self._kept.get(key)
        if kept is not None and (pod is None or pod.metadata.uid != kept.uid):
            await self._end(key, kept)
            kept = None
        if pod is None:
            return None
        if pod.metadata.is_terminating:
            await self._finish_deletion(key, pod, kept)
        elif pod.is_over:
            if kept is not None:
                await self._end(key, kept)
        else:
            await self._keep(key, pod, kept)
        return None

    async def _end(self, key: Key, kept: _Kept) -> None:
        if kept.runner is not None:
            await kept.runner.end()
        self._kept.pop(key, None)

    async def _keep(self, key: Key, pod: Pod, kept: _Kept | None) -> None:
        if kept is None:
            kept = self._kept[key] = self._take_up(key, pod)
            if kept.runner is not None:
                return  # it has not looked yet for the machine of a predecessor, then it says so
        runner = kept.runner
        refusal = kept.refusal or (runner.refusal if runner is not None else None)
        now = self._host.now()
        if refusal is not None:
            self._host.events.warning(reference(PODS, pod), refusal.reason, refusal.message)
            await self._write(pod, refused_status(pod, refusal, now))
        elif runner is not None:
            await self._write(pod, make_status(pod, runner.view, now))
            await self._annotate(pod, runner)

    def _take_up(self, key: Key, pod: Pod) -> _Kept:
        plan = plan_pod(pod, self._bounds)
        if isinstance(plan, Refusal):
            return _Kept(pod.metadata.uid, None, plan)
        runner = PodRunner(self._host, pod, plan, lambda: self._queue.add(key))
        runner.begin()
        return _Kept(pod.metadata.uid, runner)

    async def _finish_deletion(self, key: Key, pod: Pod, kept: _Kept | None) -> None:
        """End the machine, say so, then let the object go: the order of a kubelet."""
        view = kept.runner.view if kept is not None and kept.runner is not None else None
        if kept is not None:
            await self._end(key, kept)
        else:
            for session in sessions_of_pods(self._host.engine):
                if session.facts.labels[POD_UID] == pod.metadata.uid:
                    await self._end_orphan(session)
        if view is not None and not pod.is_over:
            status = make_status(pod, _ended(view, self._host.now()), self._host.now())
            await self._write(pod, status)
        meta = pod.metadata
        try:
            await self._host.kube.delete(
                PODS, meta.name, namespace=meta.namespace, uid=meta.uid, grace_s=0
            )
        except NotFoundError:
            return

    async def _write(self, pod: Pod, status: JsonObject) -> None:
        if not needs_write(pod, status):
            return
        meta = pod.metadata
        # Conditions are one list that others write too: only on the version they were taken from.
        version = {"uid": meta.uid, "resourceVersion": meta.resource_version}
        patch = {"metadata": version, "status": status}
        try:
            await self._host.kube.merge(
                PODS, meta.name, patch, namespace=meta.namespace, subresource="status"
            )
        except NotFoundError:
            return  # the informer will say so

    async def _annotate(self, pod: Pod, runner: PodRunner) -> None:
        origin = runner.origin
        if not origin.started_from:
            return
        wanted = {names.STARTED_FROM: origin.started_from}
        if origin.reason:
            wanted[names.STARTED_FROM_REASON] = origin.reason
        if all(pod.metadata.annotation(key) == value for key, value in wanted.items()):
            return
        meta = pod.metadata
        patch = {"metadata": {"uid": meta.uid, "annotations": wanted}}
        await self._host.kube.merge(PODS, meta.name, patch, namespace=meta.namespace)


def _ended(view: PodView, now: datetime) -> PodView:
    """A deleted Pod's machine ended because it was told to."""
    if view.stage in (Stage.CAPTURED, Stage.ENDED):
        return replace(view, stage=Stage.ENDED)
    exit_code = 0 if view.stage is Stage.READY else KILLED
    reason = "Completed" if exit_code == 0 else "Error"
    ended = Termination(view.machine_id, exit_code, reason, "", view.started_at, now)
    return replace(view, stage=Stage.ENDED, ended=ended)


WORKERS: Final = 8
