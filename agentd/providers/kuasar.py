"""Snapshot Pods through the Kuasar sandboxer of this node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from agentd.errors import ErrorCode, SnapStartError, TransientError, UsageError
from agentd.kuasar.client import KuasarAccess
from agentd.kuasar.names import require_key
from agentd.providers.driver import CreateRequest, LocalArtifact
from agentd.providers.kuasar_orders import Orders
from agentd.providers.kuasar_plan import (
    VANISHED,
    choose_vanished,
    group_by_key,
    is_open,
    is_same_order,
    unheard,
    view,
)
from agentd.providers.kuasar_removal import Found, read_uses, remove_all
from agentd.providers.kuasar_run import Run, stopping
from agentd.providers.ledger import Ledger, Order, Record
from controlplane.api.types import SnapshotMode

ABLE_S: Final = 10.0
AFTER_ERROR_S: Final = 1.0
STOP_S: Final = 10.0
_MODES: Final = frozenset({SnapshotMode.FORK})
# Inspections at once: many that wake up together would hold the loop for long.
_READERS: Final = 8
# An order is given up by its client after create_s, by its server never: as long again is late.
_OPEN_FOR_CREATES: Final = 2


def _utc_now() -> datetime:
    return datetime.now(UTC)


class KuasarDriver:
    """Implements `agentd.providers.driver.SnapshotDriver`; `close` before the loop ends.

    A guest whose snapshot is cut short may stay paused, so an order that was given outlives whoever
    wanted it. One is given at a time.

    Args: name: of the provider. create_s: seconds that the access's clients wait for a snapshot.
    after_error_s: seconds before what came of an order that failed is looked at. now: aware.
    """

    def __init__(
        self,
        access: KuasarAccess,
        ledger: Ledger,
        *,
        name: str,
        create_s: float,
        after_error_s: float = AFTER_ERROR_S,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._access = access
        self._ledger = ledger
        self._name = name
        self._now = now
        self._open_for = timedelta(seconds=_OPEN_FOR_CREATES * create_s)
        self._orders = Orders(
            access, ledger, now, open_for=self._open_for, after_error_s=after_error_s
        )
        self._removal = asyncio.Lock()
        self._readers = asyncio.Semaphore(_READERS)
        self._run: Run | None = None
        self._is_closed = False

    @property
    def name(self) -> str:
        """The provider's name, as the operator set it: sandboxers call themselves otherwise."""
        return self._name

    async def capabilities(self) -> frozenset[SnapshotMode]:
        """Fork, while a sandboxer answers in time that can do it as far as it tells."""
        try:
            async with asyncio.timeout(ABLE_S):
                client = await self._access.client()
                return _MODES & await client.modes()
        except (SnapStartError, TimeoutError):
            return frozenset()

    # -- reading --------------------------------------------------------------------------

    async def list(self) -> list[LocalArtifact]:
        """Every snapshot of the sandboxer, whoever ordered it; those of one key are one artifact.

        Leases are sandboxes that run; 0 where the form tells no ids. Records of what has not been
        there for an hour are dropped.
        """
        client = await self._access.client()
        groups = group_by_key(await client.list())
        # Read after what they are about: a record is older than its template.
        records = await asyncio.to_thread(self._ledger.all)
        uses = await read_uses(client, [one for group in groups.values() for one in group])
        await self._prune(records, groups)
        return [view(key, groups[key], records.get(key), uses) for key in sorted(groups)]

    async def _prune(self, records: Mapping[str, Record], present: Mapping[str, Found]) -> None:
        age = max(VANISHED, self._open_for)
        for order in choose_vanished(records.values(), present, self._now(), age):
            await asyncio.to_thread(self._ledger.forget, order)

    async def inspect(self, key: str) -> LocalArtifact | None:
        """One, read again. Raises: UsageError NAME_INVALID; why it cannot be told."""
        require_key(key)
        async with self._readers:
            client = await self._access.client()
            found = await client.find(key)
            if not found:
                return None
            record = await asyncio.to_thread(self._ledger.find, key)
            return view(key, found, record, await read_uses(client, found))

    # -- removing -------------------------------------------------------------------------

    async def delete(self, key: str) -> bool:
        """Remove until nothing is left; False if there was nothing.

        Raises: UsageError TEMPLATE_IN_USE, NAME_INVALID; TransientError TEMPLATE_NOT_READY while
        it is being made, PROVIDER_UNREACHABLE while the sandboxer may not know what uses it.
        Cancellation: some may be gone; the next call goes on.
        """
        require_key(key)
        await self._access.require_settled()
        async with self._removal:
            self._require_unmade(key)
            # Read before what it is about is removed: a later one is not this one's to drop.
            record = await asyncio.to_thread(self._ledger.find, key)
            client = await self._access.client()
            found = await client.find(key)
            await remove_all(self._access, found)
            await self._drop(record)
        return bool(found)

    async def _drop(self, record: Record | None) -> None:
        """But not that of what may still appear: it would be nobody's then."""
        if isinstance(record, Order) and is_open(record, self._now(), self._open_for):
            await asyncio.to_thread(self._ledger.put, unheard(record))
        elif record is not None:
            await asyncio.to_thread(self._ledger.forget, record)

    def _require_unmade(self, key: str) -> None:
        run = self._under_way()
        if run is not None and run.request.key == key:
            raise TransientError(
                ErrorCode.TEMPLATE_NOT_READY,
                f"removing artifact {key!r}: it is being made",
                hint="wait until it is; what was begun is not cut short",
                delay_s=10.0,
            )

    # -- making ---------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> LocalArtifact:
        """Have a Pod's sandbox snapshotted; one at a time, the others wait.

        Raises: UsageError NAME_INVALID, REQUEST_INVALID (mode), TEMPLATE_EXISTS (a snapshot of that
        key that no cluster ordered), TEMPLATE_IN_USE (one for something else is); TransientError
        TEMPLATE_NOT_READY (an order for something else may still be carried out), SHUTTING_DOWN;
        what the sandboxer said, if nothing came of it.
        Cancellation: an order that was given is carried out; the next call finds what came of it.
        """
        _require_makeable(request)
        while (run := self._under_way()) is not None and not is_same_order(run.request, request):
            await asyncio.wait({run.task})
        return await (run or self._begin(request)).outcome()

    def _begin(self, request: CreateRequest) -> Run:
        if self._is_closed:
            raise stopping(request.key)
        self._run = Run(request, self._carry_out)
        return self._run

    def _under_way(self) -> Run | None:
        return None if self._run is None or self._run.task.done() else self._run

    async def _carry_out(self, run: Run) -> LocalArtifact:
        async with self._removal:
            plan, found = await self._orders.begin(run.request)
        if plan.kept is not None:
            return await self._orders.adopt(plan.kept, found)
        run.require_wanted()
        async with self._access.turn:
            order, found = await self._orders.give(run.request, plan.before)
        return await self._orders.adopt(order, found)

    # -- stopping -------------------------------------------------------------------------

    async def close(self, *, wait_s: float = STOP_S) -> str:
        """Begin nothing more; wait for what was begun, then leave it to the sandboxer.

        Returns: for the log: what that may mean, empty if nothing had to be left.
        """
        self._is_closed = True
        run = self._under_way()
        if run is None:
            return ""
        await asyncio.wait({run.task}, timeout=wait_s)
        if run.task.done():
            return ""
        run.task.cancel()
        await asyncio.wait({run.task})
        return _left(run.request, wait_s)


def _left(request: CreateRequest, wait_s: float) -> str:
    return (
        f"making artifact {request.key!r} of Pod {request.pod_namespace}/{request.pod_name}: left "
        f"to the Kuasar sandboxer after {wait_s:g} s; that Pod's machine may stay paused, and what "
        "comes of it is found when it is ordered again"
    )


def _require_makeable(request: CreateRequest) -> None:
    require_key(request.key)
    if request.mode not in _MODES:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"making artifact {request.key!r} in mode {request.mode.value}: a Kuasar sandboxer can "
            "restore no such snapshot by its key",
            hint="use mode Fork",
        )
