"""Watch what a client of a sandboxer hears, and let its readers share what they read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentd.errors import ErrorCode, SnapStartError
from agentd.kuasar.client import (
    Form,
    KuasarClient,
    KuasarSandbox,
    KuasarTemplate,
    PodRef,
    PoolStatus,
)
from agentd.kuasar.names import require_key
from agentd.kuasar.sharing import Fresh
from controlplane.api.types import SnapshotMode

T = TypeVar("T")


def may_be_another(exc: SnapStartError) -> bool:
    """Whether an error fits a sandboxer that was replaced by one of another form."""
    if exc.code is ErrorCode.PROVIDER_UNABLE:
        return "unknown" in exc.message and "action" in exc.message
    return exc.code in (ErrorCode.PROVIDER_UNREACHABLE, ErrorCode.PROVIDER_PROTOCOL)


class WatchedClient:
    """Implements KuasarClient. Each read begins after it was asked for; many share one.

    Args: on_doubt: called at an error that fits another sandboxer.
    """

    def __init__(self, client: KuasarClient, on_doubt: Callable[[], None]) -> None:
        self._client = client
        self._on_doubt = on_doubt
        self._list = Fresh(client.list)
        self._pool = Fresh(client.pool)

    @property
    def form(self) -> Form:
        """See KuasarClient."""
        return self._client.form

    async def modes(self) -> frozenset[SnapshotMode]:
        """See KuasarClient."""
        return await self._told(self._client.modes())

    async def pool(self) -> PoolStatus:
        """See KuasarClient."""
        return await self._told(self._pool.get())

    async def sandboxes(self) -> list[KuasarSandbox]:
        """See KuasarClient."""
        return await self._told(self._client.sandboxes())

    async def create(self, pod: PodRef, key: str, mode: SnapshotMode) -> None:
        """See KuasarClient."""
        await self._told(self._client.create(pod, key, mode))

    async def find(self, key: str) -> list[KuasarTemplate]:
        """See KuasarClient. From the list, as both forms do by themselves."""
        require_key(key)
        found = [one for one in await self.list() if one.key == key]
        return sorted(found, key=lambda one: one.created_at_s or 0, reverse=True)

    async def list(self) -> list[KuasarTemplate]:
        """See KuasarClient."""
        return list(await self._told(self._list.get()))

    async def remove(self, template: KuasarTemplate) -> None:
        """See KuasarClient."""
        await self._told(self._client.remove(template))

    async def _told(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except SnapStartError as exc:
            if may_be_another(exc):
                self._on_doubt()
            raise
