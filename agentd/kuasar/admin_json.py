"""Drive a sandboxer that snapshots by `template-create` on its admin socket."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from agentd.errors import ErrorCode, PeerError, TransientError, UsageError
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import (
    Form,
    KuasarSandbox,
    KuasarTemplate,
    PodRef,
    PodSandboxes,
    PoolStatus,
)
from agentd.kuasar.failures import no_answer
from agentd.kuasar.names import require_id, require_key
from agentd.kuasar.pool import read_pool
from controlplane.api.types import SnapshotMode

# Copying guest memory and disks; the same limit as other drivers of this sandboxer have.
CREATE_S: Final = 600.0
_FORK: Final = "warm_fork"
_SHOWN: Final = 200
_MODES: Final = {_FORK: SnapshotMode.FORK, "continuation": SnapshotMode.RESUME}

_T = TypeVar("_T")


class _Template(msgspec.Struct, frozen=True):
    """As `template-list` shows one; further members are left alone."""

    template_id: str
    snapshot_type: str
    key: str
    created_at_secs: int = 0


class _Sandbox(msgspec.Struct, frozen=True):
    """As `sandbox-list` shows one; further members are left alone."""

    id: str
    status: str
    template_id: str | None = None
    template_snapshot_type: str | None = None

    @property
    def is_restored(self) -> bool:
        """A bare machine is a template as well, but its Pod began with nothing of a snapshot."""
        return self.template_id is not None and self.template_snapshot_type != "environment"


class AdminJson:
    """Implements `agentd.kuasar.client.KuasarClient`.

    Args: pods: whose sandbox is whose; this form knows no Pods. create_s: seconds for a snapshot.
    """

    form = Form.JSON

    def __init__(
        self, socket: AdminSocket, pods: PodSandboxes, *, create_s: float = CREATE_S
    ) -> None:
        self._socket = socket
        self._pods = pods
        self._create_s = create_s

    async def modes(self) -> frozenset[SnapshotMode]:
        """See KuasarClient. Fork at most, the only one that `create` makes."""
        await self.pool()
        return frozenset({SnapshotMode.FORK})

    async def pool(self) -> PoolStatus:
        """See KuasarClient."""
        return await read_pool(self._socket, f"asking for the pool's status by {self.form}")

    async def sandboxes(self) -> list[KuasarSandbox]:
        """See KuasarClient. The UIDs are the container runtime's."""
        what = f"listing sandboxes by {self.form}"
        reply = await self._socket.call(what, "sandbox-list")
        found = _converted(what, reply, "sandboxes", list[_Sandbox])
        uids = await self._pods.pod_uids()
        return [
            KuasarSandbox(one.id, uids.get(one.id, ""), one.status, one.is_restored)
            for one in found
        ]

    async def create(self, pod: PodRef, key: str, mode: SnapshotMode) -> None:
        """See KuasarClient. Fork alone: what this form calls a continuation takes no key."""
        what = f"creating {key!r} of {pod} by {self.form}"
        require_key(key)
        if mode is not SnapshotMode.FORK:
            raise UsageError(
                ErrorCode.REQUEST_INVALID,
                f"{what}: this form cannot keep a snapshot of mode {mode.value} under a key",
            )
        sandbox_id = pod.sandbox_id or await self._pods.sandbox_of(pod)
        require_id("sandbox_id", sandbox_id)
        reply = await self._make(what, sandbox_id, key)
        if reply.get("key") != key or reply.get("snapshot_type") != _FORK:
            raise _mismatch(what, reply)

    async def _make(self, what: str, sandbox_id: str, key: str) -> dict[str, Any]:
        request = {"sandbox_id": sandbox_id, "snapshot_type": _FORK, "key": key}
        try:
            return await self._socket.call(
                what, "template-create", deadline_s=self._create_s, **request
            )
        except UsageError as exc:
            if exc.code is not ErrorCode.TEMPLATE_NOT_FOUND:
                raise
            # It serves before it has found its sandboxes again.
            raise TransientError(
                ErrorCode.PROVIDER_UNREACHABLE, exc.message, hint="it may have been restarted"
            ) from exc

    async def find(self, key: str) -> list[KuasarTemplate]:
        """See KuasarClient."""
        require_key(key)
        found = [one for one in await self.list() if one.key == key]
        return sorted(found, key=lambda one: one.created_at_s or 0, reverse=True)

    async def list(self) -> list[KuasarTemplate]:
        """See KuasarClient."""
        what = f"listing snapshots by {self.form}"
        reply = await self._socket.call(what, "template-list")
        return [_view(one) for one in _converted(what, reply, "templates", list[_Template])]

    async def remove(self, template: KuasarTemplate) -> None:
        """See KuasarClient. Raises: UsageError TEMPLATE_IN_USE; one that is gone is no error."""
        what = f"removing template {template.template_id!r} of {template.key!r} by {self.form}"
        if template.mode is not SnapshotMode.FORK:
            raise UsageError(ErrorCode.REQUEST_INVALID, f"{what}: it is no snapshot of mode Fork")
        require_id("template_id", template.template_id)
        try:
            await self._socket.call(what, "pool-gc", kind=_FORK, template_id=template.template_id)
        except UsageError as exc:
            if exc.code is not ErrorCode.TEMPLATE_NOT_FOUND:
                raise


def _converted(what: str, reply: dict[str, Any], member: str, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(reply.get(member), kind)
    except msgspec.ValidationError as exc:
        raise _mismatch(what, reply) from exc


def _view(one: _Template) -> KuasarTemplate:
    mode = _MODES.get(one.snapshot_type)
    return KuasarTemplate(one.key, mode, one.template_id, one.created_at_secs or None)


def _mismatch(what: str, reply: dict[str, Any]) -> PeerError:
    return no_answer(what, f"{str(reply)[:_SHOWN]}, which answers something else")
