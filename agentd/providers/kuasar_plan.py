"""Decide about artifacts of which a sandboxer knows the keys, and a ledger the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from agentd.errors import ErrorCode, SnapStartError, TransientError, UsageError
from agentd.kuasar.client import KuasarTemplate
from agentd.providers.driver import CreateRequest, LocalArtifact
from agentd.providers.ledger import DamagedOrder, Order, OrderState, Record
from controlplane.api.types import SnapshotMode

Templates = Sequence[KuasarTemplate]
# A snapshot that was used up comes back if its restore fails; nothing is vanished for good sooner.
VANISHED: Final = timedelta(hours=1)
_YEAR_9999_S: Final = 253_370_764_800
# Errors after which it is not known whether anything was done, or still is.
_NO_WORD: Final = frozenset(
    {
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.PROVIDER_PROTOCOL,
        ErrorCode.PROVIDER_UNREACHABLE,
    }
)


@dataclass(frozen=True)
class Plan:
    """What a create begins with.

    kept: the record of what is there, if that is what is asked for. must_clear: what is there has
    to go first. before: the record of earlier orders for the same that may still be carried out.
    """

    kept: Order | None = None
    must_clear: bool = False
    before: Order | None = None


def plan_create(
    found: Templates,
    record: Record | None,
    request: CreateRequest,
    now: datetime,
    open_for: timedelta,
) -> Plan:
    """How to begin.

    Args: open_for: how long an order may still be carried out of which nothing was heard.
    Raises: UsageError TEMPLATE_EXISTS: nobody ordered what is there; TransientError
    TEMPLATE_NOT_READY: something else may still appear under this key.
    """
    if found and record is None:
        raise _unordered(request.key)
    same = record if isinstance(record, Order) and _is_for(record, request) else None
    if same is None and is_open(record, now, open_for):
        raise _unsettled(request.key)
    if same and found and _mode_of(found) is request.mode and _recorded(found, same):
        return Plan(kept=same)
    before = same if is_open(same, now, open_for) else None
    return Plan(must_clear=bool(found), before=before)


def is_same_order(one: CreateRequest, other: CreateRequest) -> bool:
    """What is made for the one does for the other, whichever Pod it is made from."""
    return (one.key, one.snapshot_hash, one.owner, one.mode) == (
        other.key,
        other.snapshot_hash,
        other.owner,
        other.mode,
    )


def _is_for(order: Order, request: CreateRequest) -> bool:
    ordered = (order.snapshot_hash, order.owner, order.mode)
    return ordered == (request.snapshot_hash, request.owner, request.mode)


def is_open(record: Record | None, now: datetime, open_for: timedelta) -> bool:
    """A template may still appear of an order under its key."""
    unheard_at = _last_unheard(record) if isinstance(record, Order) else None
    return unheard_at is not None and now - unheard_at < open_for


def _last_unheard(order: Order) -> datetime | None:
    return order.ordered_at if order.state is OrderState.ORDERED else order.unheard_at


def is_last_word(error: SnapStartError) -> bool:
    """An error of a create says that nothing will come of it; not sure is no."""
    return error.code not in _NO_WORD


def new_order(request: CreateRequest, now: datetime, before: Order | None = None) -> Order:
    """The record of a request that is about to be given. before: as in a Plan."""
    return Order(
        key=request.key,
        snapshot_hash=request.snapshot_hash,
        mode=request.mode,
        owner=request.owner,
        pod_uid=request.pod_uid,
        state=OrderState.ORDERED,
        ordered_at=now,
        unheard_at=_last_unheard(before) if before else None,
    )


def settled(order: Order, found: Templates, now: datetime) -> Order:
    """The record of an order of which these templates came; itself if that is known already.

    After an earlier order that was not heard of, it is not known which of the two they came of.
    """
    template_ids = tuple(one.template_id for one in found if one.template_id)
    if order.state is OrderState.MADE and order.template_ids == template_ids:
        return order
    return msgspec.structs.replace(
        order,
        state=OrderState.MADE,
        made_at=now,
        unheard_at=_last_unheard(order) if order.unheard_at else None,
        template_ids=template_ids,
    )


def unheard(order: Order) -> Order:
    """The record of orders of which nothing is there, but may still appear."""
    return msgspec.structs.replace(
        order,
        state=OrderState.ORDERED,
        ordered_at=_last_unheard(order) or order.ordered_at,
        made_at=None,
        unheard_at=None,
        template_ids=(),
    )


def choose_spare(found: Templates, order: Order) -> list[KuasarTemplate]:
    """All but one: of those that were recorded, of all if none was, the newest."""
    kept = found.index((_recorded(found, order) or found)[0]) if found else 0
    return [*found[:kept], *found[kept + 1 :]]


def choose_vanished(
    records: Iterable[Record], keys: Iterable[str], now: datetime, age: timedelta
) -> list[Order]:
    """The records of what is not there any more, and has not been for a while.

    Args: keys: those of which there are snapshots.
    """
    present = frozenset(keys)
    orders = (one for one in records if isinstance(one, Order) and one.key not in present)
    return [one for one in orders if now - (one.made_at or one.ordered_at) > age]


def group_by_key(templates: Templates) -> dict[str, list[KuasarTemplate]]:
    """The newest of a key first where that is told; without what has no key."""
    groups: dict[str, list[KuasarTemplate]] = {}
    for one in sorted(templates, key=lambda one: one.created_at_s or 0, reverse=True):
        if one.key:
            groups.setdefault(one.key, []).append(one)
    return groups


def view(
    key: str, found: Templates, record: Record | None, uses: Mapping[str, int]
) -> LocalArtifact:
    """An artifact as it was read.

    Args: found: not empty. uses: running sandboxes by template.
    """
    order = record if isinstance(record, Order) else None
    return LocalArtifact(
        key=key,
        snapshot_hash=order.snapshot_hash if order else "",
        mode=_mode_of(found),
        is_ready=_is_ready(found, record),
        leases=sum(uses.get(one.template_id, 0) for one in found),
        created_at=_created_at(found, order),
        owner=order.owner if order else None,
    )


def _is_ready(found: Templates, record: Record | None) -> bool:
    """The next restore takes what was recorded; what nobody ordered is left alone like this."""
    if record is None:
        return True
    if isinstance(record, DamagedOrder) or record.state is not OrderState.MADE:
        return False
    return found[0] in _recorded(found, record) and _mode_of(found) is record.mode


def _recorded(found: Templates, order: Order) -> list[KuasarTemplate]:
    """Those that came of an order, as far as can be told."""
    if not order.template_ids or not all(one.template_id for one in found):
        return [*found]
    return [one for one in found if one.template_id in order.template_ids]


def _mode_of(found: Templates) -> SnapshotMode | None:
    modes = {one.mode for one in found}
    return modes.pop() if len(modes) == 1 else None


def _created_at(found: Templates, order: Order | None) -> datetime | None:
    told = max(one.created_at_s or 0 for one in found)
    if 0 < told < _YEAR_9999_S:
        return datetime.fromtimestamp(told, UTC)
    return (order.made_at or order.ordered_at) if order else None


def _unordered(key: str) -> UsageError:
    return UsageError(
        ErrorCode.TEMPLATE_EXISTS,
        f"making artifact {key!r}: the sandboxer has a snapshot of that key which no cluster "
        "ordered",
        hint="remove it, if it is not needed",
    )


def _unsettled(key: str) -> TransientError:
    return TransientError(
        ErrorCode.TEMPLATE_NOT_READY,
        f"making artifact {key!r}: an earlier order of that key, for something else, may still be "
        "carried out",
        hint="nothing was heard of it; it is given up after a while",
        delay_s=60.0,
    )
