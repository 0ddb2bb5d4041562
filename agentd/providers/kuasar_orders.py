"""Give orders to a sandboxer that forgets whose they were, and find what came of them.

It makes another template at each order, and may carry one out of which nothing was heard. So an
order is on record before it is given, is given only when nothing is there under its key, and what
counts is what is found afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from agentd.errors import ErrorCode, PeerError, SnapStartError
from agentd.kuasar.client import KuasarAccess, KuasarClient, PodRef
from agentd.providers.driver import CreateRequest, LocalArtifact
from agentd.providers.kuasar_plan import (
    Plan,
    choose_spare,
    is_last_word,
    new_order,
    plan_create,
    settled,
    unheard,
    view,
)
from agentd.providers.kuasar_removal import Found, read_uses, reduce, remove_all
from agentd.providers.ledger import Ledger, Order


class Orders:
    """The orders of one daemon; its caller gives one at a time.

    Args: open_for: how long an order may still be carried out of which nothing was heard.
    after_error_s: seconds before what came of one that failed is looked at.
    """

    def __init__(
        self,
        access: KuasarAccess,
        ledger: Ledger,
        now: Callable[[], datetime],
        *,
        open_for: timedelta,
        after_error_s: float,
    ) -> None:
        self._access = access
        self._ledger = ledger
        self._now = now
        self._open_for = open_for
        self._after_error_s = after_error_s

    async def begin(self, request: CreateRequest) -> tuple[Plan, Found]:
        """See to it that under its key there is nothing, or what is asked for.

        Returns: which; what is there. Raises: as `plan_create`, `remove_all`.
        Cancellation: what has to go may be gone; nothing was ordered.
        """
        client = await self._access.client()
        found = await client.find(request.key)
        record = await asyncio.to_thread(self._ledger.find, request.key)
        plan = plan_create(found, record, request, self._now(), self._open_for)
        if plan.must_clear:
            await remove_all(self._access, found)
        return plan, found

    async def give(self, request: CreateRequest, before: Order | None) -> tuple[Order, Found]:
        """Order an artifact; whatever is heard of it, look what is there.

        Args: before: as in a Plan: what is kept of it when it is certain that nothing comes of this
        one.
        Returns: its record; what is there now.
        Raises: what the order failed of, if nothing is there or that cannot be told.
        Cancellation: a guest may stay paused.
        """
        client = await self._access.client()
        order = new_order(request, self._now(), before)
        await asyncio.to_thread(self._ledger.put, order)
        error = await self._ask(client, request)
        found = await self._found_after(error, request.key)
        if not found and (error is None or is_last_word(error)):
            await self._take_back(order, before)
        if not found and error is not None:
            raise error
        return order, found

    async def _ask(self, client: KuasarClient, request: CreateRequest) -> SnapStartError | None:
        """Returns: why it failed, as far as its reply tells."""
        pod = PodRef(request.pod_uid, request.pod_namespace, request.pod_name)
        try:
            await client.create(pod, request.key, request.mode)
        except SnapStartError as exc:
            await asyncio.sleep(self._after_error_s)
            return exc
        return None

    async def _found_after(self, error: SnapStartError | None, key: str) -> Found:
        """Whatever sandboxer is there by now is asked."""
        try:
            client = await self._access.client()
            return await client.find(key)
        except SnapStartError as exc:
            raise error or exc from exc

    async def _take_back(self, order: Order, before: Order | None) -> None:
        if before is None:
            await asyncio.to_thread(self._ledger.forget, order)
        else:
            await asyncio.to_thread(self._ledger.put, unheard(before))

    async def adopt(self, order: Order, found: Found) -> LocalArtifact:
        """Leave one of what came of an order, look at it, put that on record.

        Raises: PeerError PROVIDER_FAILED: nothing is there any more, PROVIDER_PROTOCOL: it is
        something else. Cancellation: the next call goes on.
        """
        left = await reduce(self._access, found, lambda some: choose_spare(some, order))
        if not left:
            raise _vanished(order.key)
        made = settled(order, left, self._now())
        uses = await read_uses(await self._access.client(), left)
        artifact = view(order.key, left, made, uses)
        if not artifact.is_ready:
            raise _something_else(artifact)
        if made is not order:
            await asyncio.to_thread(self._ledger.put, made)
        return artifact


def _vanished(key: str) -> PeerError:
    return PeerError(
        ErrorCode.PROVIDER_FAILED,
        f"making artifact {key!r}: the Kuasar sandboxer made a snapshot that is not there any more",
        hint="with lease_mode exclusive the first restore uses it up; a full pool evicts",
    )


def _something_else(artifact: LocalArtifact) -> PeerError:
    return PeerError(
        ErrorCode.PROVIDER_PROTOCOL,
        f"making artifact {artifact.key!r}: what the Kuasar sandboxer has now is {artifact!r}",
        hint="look at its log",
    )
