"""Read what an admin socket says of the pool of templates; both forms say it alike."""

from __future__ import annotations

from typing import Any

import msgspec

from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import PoolStatus
from agentd.kuasar.failures import no_answer

_SHOWN = 200


class _Uses(msgspec.Struct, frozen=True):
    template_id: str
    refs: int


class _Status(msgspec.Struct, frozen=True):
    """Further members are left alone."""

    total: int
    active_shared_refs: list[_Uses] = []


async def read_pool(admin: AdminSocket, what: str) -> PoolStatus:
    """Ask for it. Raises: as AdminSocket.call; ConfigError PROVIDER_UNABLE: there is no pool."""
    return pool_status(what, await admin.call(what, "pool-status"))


def pool_status(what: str, reply: dict[str, Any]) -> PoolStatus:
    """A reply's meaning. Raises: PeerError PROVIDER_PROTOCOL: it has none."""
    try:
        status = msgspec.convert(reply, _Status)
    except msgspec.ValidationError as exc:
        raise no_answer(what, f"{str(reply)[:_SHOWN]}, which is no status ({exc})") from exc
    return PoolStatus(
        status.total, {one.template_id: one.refs for one in status.active_shared_refs}
    )
