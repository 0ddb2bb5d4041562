"""Have a Pod that waits in vain made anew, once for each Sandbox."""

from __future__ import annotations

from typing import Final

import msgspec

from agentd.engine.trace import Tracer
from agentd.errors import SnapStartError
from agentd.kuasar.client import KuasarAccess
from agentd.node.restore_evidence import Result, is_listed
from agentd.node.restore_listing import SandboxListing
from agentd.node.restore_pods import SessionPod
from controlplane.api.core import Sandbox
from controlplane.errors import NotFoundError
from controlplane.kube.api import KubeApi
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.resource import PODS, Resource
from controlplane.kube.sandboxes import is_suspended

# On a Sandbox: the UID of the one Pod of it that was deleted because it waited in vain.
REPLACED_POD: Final = "snapstart.agentcube.volcano.sh/replaced-pod"


def may_replace(pod: SessionPod, sandbox: Sandbox) -> bool:
    """Whether its Sandbox would have it made anew, and did not before.

    A deletion that was noted, but perhaps not done, is repeated.
    """
    owner, meta = pod.metadata.controller, sandbox.metadata
    return (
        owner is not None
        and owner.uid == meta.uid
        and not meta.is_terminating
        and not is_suspended(sandbox)
        and meta.annotation(REPLACED_POD) in ("", pod.metadata.uid)
    )


class Replacer:
    """Deletes such Pods. Args: sandboxes: the Sandbox in the version that was discovered."""

    def __init__(
        self,
        kube: KubeApi,
        sandboxes: Resource,
        access: KuasarAccess,
        listing: SandboxListing,
        events: EventRecorder,
        tracer: Tracer,
    ) -> None:
        self._kube = kube
        self._sandboxes = sandboxes
        self._access = access
        self._listing = listing
        self._events = events
        self._tracer = tracer

    async def replace(self, pod: SessionPod) -> bool:
        """Delete a Pod that was seen just now to wait, if all allows it. Returns: whether it did.

        It is noted on the Sandbox before, so that a successor of ours does not do it again.
        Raises: ControlPlaneError. Cancellation: it may be noted without being done.
        """
        sandbox = await self._find_sandbox(pod)
        if sandbox is None or not may_replace(pod, sandbox) or not await self._is_worth_it(pod):
            return False
        await self._note(sandbox, pod)
        meta = pod.metadata
        await self._kube.delete(PODS, meta.name, namespace=meta.namespace, uid=meta.uid)
        self._events.warning(
            pod.subject,
            "SandboxRestoreFallback",
            f"deleted Pod {meta.name}, which waited for an injection that would never come, so "
            f"that it is made anew from snapshot {pod.restore_key!r}; this is done once",
        )
        self._tracer.step("pod.replaced", pod=meta.name, uid=meta.uid)
        return True

    async def _find_sandbox(self, pod: SessionPod) -> Sandbox | None:
        owner = pod.metadata.controller
        if owner is None or owner.kind != self._sandboxes.kind:
            return None
        try:
            body = await self._kube.get(self._sandboxes, owner.name, pod.metadata.namespace)
        except NotFoundError:
            return None
        return msgspec.convert(body, Sandbox, strict=False)

    async def _is_worth_it(self, pod: SessionPod) -> bool:
        """Its snapshot is there now; and it is cold now, whatever its annotations say."""
        try:
            client = await self._access.client()
            if not is_listed(await client.find(pod.restore_key)):
                return False
        except SnapStartError as exc:
            self._tracer.step("pod.replace.failed", pod=pod.metadata.name, error=str(exc))
            return False
        verdict = await self._listing.judge(pod.metadata.uid, anew=True)
        return verdict is not None and verdict.result is Result.COLD_START

    async def _note(self, sandbox: Sandbox, pod: SessionPod) -> None:
        meta = sandbox.metadata
        patch = {
            "metadata": {
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
                "annotations": {REPLACED_POD: pod.metadata.uid},
            }
        }
        await self._kube.merge(self._sandboxes, meta.name, patch, namespace=meta.namespace)
