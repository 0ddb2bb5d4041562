"""Drive a sandboxer that snapshots by `template-create` on its admin socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from agentd.errors import ErrorCode, PeerError, TransientError, UsageError
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form, KuasarTemplate, PodRef
from agentd.kuasar.names import require_id, require_key
from controlplane.api.types import SnapshotMode

# Copying guest memory and disks; the same limit as other drivers of this sandboxer have.
CREATE_S: Final = 600.0
_FORK: Final = "warm_fork"
_MODES: Final = {_FORK: SnapshotMode.FORK, "continuation": SnapshotMode.RESUME}

ResolveSandbox = Callable[[PodRef], Awaitable[str]]


class _Template(msgspec.Struct, frozen=True):
    """As `template-list` shows one; further members are left alone."""

    template_id: str
    snapshot_type: str
    key: str
    created_at_secs: int = 0


class AdminJson:
    """Implements `agentd.kuasar.client.KuasarClient`.

    Args: sandbox_of: the id of a Pod's sandbox; this form knows no Pods.
    """

    form = Form.JSON

    def __init__(self, socket: AdminSocket, sandbox_of: ResolveSandbox) -> None:
        self._socket = socket
        self._sandbox_of = sandbox_of

    async def create(self, pod: PodRef, key: str, mode: SnapshotMode) -> None:
        """See KuasarClient. Fork alone: what this form calls a continuation takes no key."""
        what = f"creating {key!r} of {pod} by {self.form}"
        require_key(key)
        if mode is not SnapshotMode.FORK:
            raise UsageError(
                ErrorCode.REQUEST_INVALID,
                f"{what}: this form cannot keep a snapshot of mode {mode.value} under a key",
            )
        sandbox_id = require_id("sandbox_id", await self._sandbox_of(pod))
        reply = await self._make(what, sandbox_id, key)
        if reply.get("key") != key or reply.get("snapshot_type") != _FORK:
            raise _mismatch(what, reply)

    async def _make(self, what: str, sandbox_id: str, key: str) -> dict[str, Any]:
        request = {"sandbox_id": sandbox_id, "snapshot_type": _FORK, "key": key}
        try:
            return await self._socket.call(what, "template-create", deadline_s=CREATE_S, **request)
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
        try:
            templates = msgspec.convert(reply.get("templates"), list[_Template])
        except msgspec.ValidationError as exc:
            raise _mismatch(what, reply) from exc
        return [_view(one) for one in templates]

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


def _view(one: _Template) -> KuasarTemplate:
    mode = _MODES.get(one.snapshot_type)
    return KuasarTemplate(one.key, mode, one.template_id, one.created_at_secs or None)


def _mismatch(what: str, reply: dict[str, Any]) -> PeerError:
    return PeerError(
        ErrorCode.PROVIDER_PROTOCOL,
        f"{what}: the Kuasar sandboxer answered something else: {str(reply)[:200]}",
        hint="is it a form that this version knows? look at its log",
    )
