"""Make, list, delete templates through this node's driver, for a control plane of the first form.

Each is an artifact like any other: one create at a time, never cut short, looked at afterwards, its
owner in the driver's ledger. What tells them from the artifacts of SandboxSnapshots is the owner's
cluster, which here is `snapstart/` with the cluster's UID: whoever asks whether a SandboxSnapshot
still wants an artifact of this cluster leaves them alone, since no SandboxSnapshot ever did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

from agentd.kuasar.client import KuasarAccess, KuasarTemplate, PodRef, PodSandboxes
from agentd.providers.driver import CreateRequest, LocalArtifact, SnapshotDriver, SnapshotOwner
from agentd.proxy.making import Making
from agentd.proxy.refusals import RefusedError
from agentd.proxy.replies import TemplateView
from agentd.proxy.requests import CreateTemplate, Owner
from controlplane.api.types import SnapshotMode

_INSTALLATION: Final = "snapstart/"
_VERSION: Final = "v1"


class Templates:
    """The templates of this installation on this node; `close` leaves what is being made alone.

    Args: pods: the container runtime. cluster: UID of the kube-system namespace. node_name: of this
    node. now: UTC.
    """

    def __init__(
        self,
        driver: SnapshotDriver,
        access: KuasarAccess,
        pods: PodSandboxes,
        *,
        cluster: str,
        node_name: str,
        now: Callable[[], datetime],
    ) -> None:
        self._driver = driver
        self._making = Making(driver)
        self._access = access
        self._pods = pods
        self._installation = _INSTALLATION + cluster
        self._node_name = node_name
        self._now = now

    async def close(self) -> None:
        """Wait for nothing any more. Idempotent."""
        await self._making.close()

    async def create(self, request: CreateTemplate) -> str:
        """Make a template of a sandbox; again for the same sandbox and key it is the same one.

        Returns: its id. Raises: RefusedError: meant for another node, no such sandbox, the key is
        another SnapStart's, too many at once; what the driver raises.
        Cancellation: a snapshot that was begun goes on, and is found by the next call.
        """
        check_node(request.owner, self._node_name)
        found = await self._driver.inspect(request.key)
        check_owner(found, self._owner(request.owner))
        order = self._order(request, "")
        if found is None or not is_made_for(found, order):
            order = self._order(request, await self._pod_uid(request))
            found = await self._making.create(order)
        return choose_ids([found], await self._listed())[found.key]

    async def _pod_uid(self, request: CreateTemplate) -> str:
        """By which a driver knows a Pod; it would take the Pod's present sandbox."""
        uid = (await self._pods.pod_uids()).get(request.sandbox_id, "")
        pod = PodRef(uid, request.owner.namespace, "")
        if not uid or await self._pods.sandbox_of(pod) != request.sandbox_id:
            raise RefusedError(
                404,
                "sandbox_unknown",
                "no sandbox of that id runs on this node; it is the container runtime's id of a "
                "Pod's sandbox, not the name of a Sandbox or Pod",
            )
        return uid

    async def list(self) -> list[TemplateView]:
        """Every template that was made through here, by key. Raises: what the driver raises."""
        own = await self._own()
        ids = choose_ids(own, await self._listed())
        return [self._view(one, ids[one.key]) for one in sorted(own, key=lambda one: one.key)]

    async def delete(self, template_id: str) -> None:
        """Delete one; one that is gone is no error.

        Raises: RefusedError: somebody else's, or superseded and still in use; what the driver
        raises, TEMPLATE_IN_USE among it.
        """
        own, listed = await self._own(), await self._listed()
        for key, own_id in choose_ids(own, listed).items():
            if own_id == template_id:
                await self._driver.delete(key)
                return
        check_gone(template_id, own, listed)

    async def _own(self) -> Sequence[LocalArtifact]:
        return [one for one in await self._driver.list() if is_own(one, self._installation)]

    async def _listed(self) -> Sequence[KuasarTemplate]:
        return await (await self._access.client()).list()

    def _owner(self, owner: Owner) -> SnapshotOwner:
        return SnapshotOwner(
            self._installation, owner.namespace, owner.snap_start_name, owner.snap_start_uid
        )

    def _order(self, request: CreateTemplate, pod_uid: str) -> CreateRequest:
        return CreateRequest(
            pod_uid=pod_uid,
            pod_namespace=request.owner.namespace,
            pod_name="",
            key=request.key,
            snapshot_hash=fingerprint(request),
            mode=SnapshotMode.FORK,
            owner=self._owner(request.owner),
        )

    def _view(self, artifact: LocalArtifact, template_id: str) -> TemplateView:
        owner = artifact.owner
        assert owner is not None
        told = {
            "namespace": owner.namespace,
            "runtime_name": runtime_of(artifact.snapshot_hash),
            "snap_start_name": owner.snapshot_name,
            "snap_start_uid": owner.snapshot_uid,
            "node_name": self._node_name,
        }
        return TemplateView(
            template_id=template_id,
            key=artifact.key,
            # One of unknown age must not look like an old one, which an orphan sweep would take.
            created_at=artifact.created_at or self._now(),
            lease_count=artifact.leases,
            owner=told,
        )


# -- decisions ------------------------------------------------------------------------------------


def fingerprint(request: CreateTemplate) -> str:
    """What an artifact was made of, as a driver compares it: this form has no snapshotHash.

    The sandbox is part of it: a rebuild has the key of what it replaces, and is another template.
    """
    return f"{_VERSION}/{request.sandbox_id}/{request.owner.runtime_name}"


def runtime_of(snapshot_hash: str) -> str:
    """The runtime's name in a fingerprint; empty if it is none."""
    parts = snapshot_hash.split("/")
    return parts[2] if len(parts) == 3 and parts[0] == _VERSION else ""


def is_own(artifact: LocalArtifact, installation: str) -> bool:
    """It was made through here, by order of this cluster."""
    return artifact.owner is not None and artifact.owner.cluster == installation


def is_made_for(found: LocalArtifact, order: CreateRequest) -> bool:
    """It is what an order would make."""
    is_same = found.owner == order.owner and found.snapshot_hash == order.snapshot_hash
    return is_same and found.is_ready and found.mode is order.mode


def choose_ids(
    artifacts: Iterable[LocalArtifact], listed: Iterable[KuasarTemplate]
) -> dict[str, str]:
    """The id of each artifact's template, by key: the sandboxer's, of the newest, if it tells.

    Otherwise one of the same shape, made of the order, so that a later template under the same key
    has another one.
    """
    ids = {one.key: _derived_id(one) for one in artifacts}
    for one in sorted(listed, key=lambda one: one.created_at_s or 0):
        if one.key in ids and one.template_id:
            ids[one.key] = one.template_id
    return ids


def _derived_id(artifact: LocalArtifact) -> str:
    uid = artifact.owner.snapshot_uid if artifact.owner else ""
    text = f"{artifact.key}/{uid}/{artifact.snapshot_hash}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_node(owner: Owner, node_name: str) -> None:
    """Raises: RefusedError: the order is for another node, so it went to a wrong address."""
    if owner.node_name not in ("", node_name):
        raise RefusedError(
            400,
            "wrong_node",
            f"the order is for node {owner.node_name}, but this is {node_name}; does the control "
            "plane dial the agent's Pod?",
        )


def check_owner(found: LocalArtifact | None, owner: SnapshotOwner) -> None:
    """Raises: RefusedError: the key is taken by somebody else, who would lose a template."""
    if found is not None and found.owner != owner:
        raise RefusedError(
            409, "template_exists", "the key is taken by a template of another owner"
        )


def check_gone(
    template_id: str, own: Iterable[LocalArtifact], listed: Iterable[KuasarTemplate]
) -> None:
    """Raises: RefusedError: it is not among ours, but there."""
    key = next((one.key for one in listed if one.template_id == template_id), None)
    if key is None:
        return
    if key in {one.key for one in own}:
        raise RefusedError(
            409, "template_in_use", "it was superseded, and goes with the last of its sandboxes"
        )
    raise RefusedError(403, "not_owned", "it was not made through here, so it stays")
