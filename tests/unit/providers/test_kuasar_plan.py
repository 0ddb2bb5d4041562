"""What is made of a sandboxer's templates and of what was recorded of orders."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.kuasar.client import KuasarTemplate
from agentd.providers.driver import CreateRequest, SnapshotOwner
from agentd.providers.kuasar_plan import (
    Plan,
    choose_spare,
    choose_vanished,
    group_by_key,
    is_last_word,
    is_open,
    is_same_order,
    new_order,
    plan_create,
    settled,
    unheard,
    view,
)
from agentd.providers.ledger import DamagedOrder, Order, OrderState, Record
from controlplane.api.types import SnapshotMode

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OPEN_FOR = timedelta(minutes=20)
KEY = "python-0123456789-fork-g1-r1"
REQUEST = CreateRequest(
    pod_uid="uid-1",
    pod_namespace="team",
    pod_name="build-1",
    key=KEY,
    snapshot_hash="sha256:one",
    mode=SnapshotMode.FORK,
    owner=SnapshotOwner("cluster", "team", "python", "snap-uid"),
)
OTHERS = [
    replace(REQUEST, snapshot_hash="sha256:two"),
    replace(REQUEST, owner=SnapshotOwner("cluster", "team", "python", "another")),
    replace(REQUEST, owner=SnapshotOwner("elsewhere", "team", "python", "snap-uid")),
    replace(REQUEST, mode=SnapshotMode.RESUME),
]


def template(
    number: int = 1, mode: SnapshotMode | None = SnapshotMode.FORK, *, key: str = KEY
) -> KuasarTemplate:
    """Numbers are ages backwards: the highest is the newest."""
    return KuasarTemplate(key, mode, f"{number:032x}", 1_700_000_000 + number)


# All that one of the forms tells.
BARE = KuasarTemplate(KEY, SnapshotMode.FORK)


def ordered(request: CreateRequest = REQUEST, *, ago: timedelta = timedelta(minutes=1)) -> Order:
    return new_order(request, NOW - ago)


def made(*found: KuasarTemplate, request: CreateRequest = REQUEST) -> Order:
    return settled(ordered(request), found, NOW)


def begin(found: list[KuasarTemplate], record: Record | None) -> Plan:
    return plan_create(found, record, REQUEST, NOW, OPEN_FOR)


# -- how a create begins --------------------------------------------------------------------------


def test_what_is_there_and_was_made_for_the_same_is_kept() -> None:
    record = made(template())
    assert begin([template()], record) == Plan(kept=record)


def test_an_order_whose_outcome_nobody_recorded_is_adopted() -> None:
    assert begin([template()], ordered()) == Plan(kept=ordered())
    assert begin([BARE], ordered()) == Plan(kept=ordered())


def test_it_is_kept_whichever_pod_it_was_made_from() -> None:
    record = made(template(), request=replace(REQUEST, pod_uid="uid-0", pod_name="build-0"))
    assert begin([template()], record).kept is record


def test_what_nobody_ordered_is_neither_kept_nor_cleared() -> None:
    with pytest.raises(UsageError, match="which no cluster ordered") as caught:
        begin([template()], None)
    assert caught.value.code is ErrorCode.TEMPLATE_EXISTS


@pytest.mark.parametrize("other", OTHERS, ids=["hash", "snapshot", "cluster", "mode"])
def test_what_was_made_for_something_else_goes_first(other: CreateRequest) -> None:
    assert begin([template()], made(template(), request=other)) == Plan(must_clear=True)


def test_what_is_of_another_mode_than_it_was_ordered_in_goes_first() -> None:
    odd = template(mode=SnapshotMode.RESUME)
    assert begin([odd], made(odd)) == Plan(must_clear=True)
    assert begin([odd, template()], ordered()) == Plan(must_clear=True, before=ordered())


def test_another_template_in_the_place_of_the_recorded_one_goes_first() -> None:
    assert begin([template(2)], made(template(1))) == Plan(must_clear=True)
    assert begin([template(2), template(1)], made(template(1))).kept is not None


def test_a_damaged_record_is_no_absence_of_one() -> None:
    assert begin([template()], DamagedOrder(KEY, "why")) == Plan(must_clear=True)
    assert begin([], DamagedOrder(KEY, "why")) == Plan()


@pytest.mark.parametrize("other", OTHERS, ids=["hash", "snapshot", "cluster", "mode"])
@pytest.mark.parametrize("found", [[], [template()]], ids=["absent", "present"])
def test_what_may_still_come_of_another_order_is_waited_for(
    other: CreateRequest, found: list[KuasarTemplate]
) -> None:
    with pytest.raises(TransientError, match="may still be carried out") as caught:
        begin(found, ordered(other))
    assert caught.value.code is ErrorCode.TEMPLATE_NOT_READY
    assert begin(found, ordered(other, ago=OPEN_FOR)) == Plan(must_clear=bool(found))


def test_an_absent_one_is_ordered() -> None:
    assert begin([], None) == Plan()
    assert begin([], made(template())) == Plan(), "it was evicted, or used up"


def test_earlier_orders_for_the_same_that_are_open_are_not_forgotten() -> None:
    assert begin([], ordered()) == Plan(before=ordered())
    assert begin([], ordered(ago=OPEN_FOR)) == Plan()
    assert begin([], after_an_unheard_one()) == Plan(before=after_an_unheard_one())


def after_an_unheard_one() -> Order:
    """Made by the second of two orders; the first may still be carried out."""
    first = ordered(ago=timedelta(minutes=2))
    return settled(new_order(REQUEST, NOW, first), [template()], NOW)


def test_what_was_made_does_not_settle_an_earlier_order_for_the_same() -> None:
    record = after_an_unheard_one()
    assert (record.state, record.unheard_at) == (OrderState.MADE, NOW)
    assert begin([template()], record).kept is record
    other = replace(REQUEST, snapshot_hash="sha256:two")
    with pytest.raises(TransientError, match="may still be carried out"):
        plan_create([template()], record, other, NOW, OPEN_FOR)
    later = NOW + OPEN_FOR
    assert plan_create([template()], record, other, later, OPEN_FOR) == Plan(must_clear=True)


def test_what_may_still_appear_is_on_record_as_ordered_and_not_seen() -> None:
    record = unheard(after_an_unheard_one())
    assert record.state is OrderState.ORDERED
    assert (record.ordered_at, record.made_at, record.template_ids) == (NOW, None, ())
    assert unheard(ordered()) == ordered()


def test_orders_are_the_same_whatever_the_pod() -> None:
    assert is_same_order(REQUEST, replace(REQUEST, pod_uid="", pod_namespace="", pod_name=""))
    assert not any(is_same_order(REQUEST, other) for other in OTHERS)
    assert not is_same_order(REQUEST, replace(REQUEST, key="other"))


def test_only_an_unheard_order_is_open_and_not_for_ever() -> None:
    assert is_open(ordered(), NOW, OPEN_FOR)
    assert not is_open(ordered(ago=OPEN_FOR), NOW, OPEN_FOR)
    assert not is_open(made(template()), NOW, OPEN_FOR)
    assert is_open(after_an_unheard_one(), NOW, OPEN_FOR)
    assert not is_open(after_an_unheard_one(), NOW + OPEN_FOR, OPEN_FOR)
    assert not is_open(DamagedOrder(KEY, "why"), NOW, OPEN_FOR)
    assert not is_open(None, NOW, OPEN_FOR)


@pytest.mark.parametrize(
    ("error", "is_last"),
    [
        (TransientError(ErrorCode.DEADLINE_EXCEEDED, "no reply"), False),
        (TransientError(ErrorCode.PROVIDER_UNREACHABLE, "broken off"), False),
        (PeerError(ErrorCode.PROVIDER_PROTOCOL, "half a reply"), False),
        (PeerError(ErrorCode.PROVIDER_FAILED, "disk copy failed"), True),
        (TransientError(ErrorCode.NODE_FULL, "max_per_key=5"), True),
        (TransientError(ErrorCode.GUEST_NOT_READY, "not running"), True),
        (ConfigError(ErrorCode.PROVIDER_UNABLE, "no pool"), True),
        (UsageError(ErrorCode.REQUEST_INVALID, "no annotation"), True),
    ],
    ids=lambda value: value.code.value if isinstance(value, SnapStartError) else "",
)
def test_only_a_reply_is_the_last_word(error: SnapStartError, is_last: bool) -> None:
    assert is_last_word(error) is is_last


# -- what came of an order ------------------------------------------------------------------------


def test_what_came_of_an_order_is_recorded_once() -> None:
    record = settled(ordered(), [template()], NOW)
    assert (record.state, record.made_at) == (OrderState.MADE, NOW)
    assert record.template_ids == (template().template_id,)
    later = NOW + timedelta(hours=1)
    assert settled(record, [template()], later) is record
    assert settled(record, [template(2), template()], later).made_at == later
    assert settled(ordered(), [BARE], NOW).template_ids == ()


def test_of_an_unheard_order_the_newest_is_left() -> None:
    assert choose_spare([template(2), template(1)], ordered()) == [template(1)]
    assert choose_spare([template(1)], ordered()) == []
    assert choose_spare([], ordered()) == []
    assert choose_spare([BARE, BARE, BARE], ordered()) == [BARE, BARE]


def test_a_recorded_one_is_left_in_preference_to_a_newer_one() -> None:
    late, recorded = template(2), template(1)
    assert choose_spare([late, recorded], made(recorded)) == [late]
    assert choose_spare([BARE, BARE], made(BARE)) == [BARE]


def test_only_what_has_been_away_for_a_while_has_vanished() -> None:
    hour = timedelta(hours=1)
    long_made = msgspec.structs.replace(made(template()), made_at=NOW - 2 * hour)
    long_ordered = ordered(ago=2 * hour)
    records: list[Record] = [long_made, ordered(), made(template()), DamagedOrder("x", "why")]
    assert choose_vanished(records, [], NOW, hour) == [long_made]
    assert choose_vanished(records, [KEY], NOW, hour) == []
    assert choose_vanished([long_ordered], [], NOW, hour) == [long_ordered]


# -- what is shown --------------------------------------------------------------------------------


def test_a_recorded_artifact_is_ready_of_its_owner_and_hash() -> None:
    found = view(KEY, [template()], made(template()), {template().template_id: 2, "other": 5})
    assert (found.key, found.snapshot_hash, found.owner) == (KEY, "sha256:one", REQUEST.owner)
    assert (found.mode, found.is_ready, found.leases) == (SnapshotMode.FORK, True, 2)
    assert found.created_at == datetime.fromtimestamp(1_700_000_001, UTC)


def test_where_no_ids_are_told_leases_are_none_and_the_age_is_the_records() -> None:
    found = view(KEY, [BARE], made(BARE), {})
    assert (found.is_ready, found.leases, found.created_at) == (True, 0, NOW)
    assert view(KEY, [BARE], ordered(), {}).created_at == ordered().ordered_at
    assert view(KEY, [BARE], None, {}).created_at is None


def test_what_was_not_recorded_as_made_is_not_ready() -> None:
    found = view(KEY, [template()], ordered(), {})
    assert (found.is_ready, found.owner) == (False, REQUEST.owner)


def test_what_nobody_ordered_is_nobodys_and_is_left_alone_as_ready() -> None:
    found = view(KEY, [template()], None, {})
    assert (found.is_ready, found.owner, found.snapshot_hash) == (True, None, "")


def test_a_damaged_record_makes_an_artifact_of_nobody_that_is_not_ready() -> None:
    found = view(KEY, [template()], DamagedOrder(KEY, "why"), {})
    assert (found.is_ready, found.owner, found.snapshot_hash) == (False, None, "")


def test_it_is_not_ready_when_a_restore_would_take_another_one() -> None:
    assert not view(KEY, [template(2), template(1)], made(template(1)), {}).is_ready
    assert view(KEY, [template(2), template(1)], made(template(2)), {}).is_ready
    assert not view(KEY, [template(2)], made(template(1)), {}).is_ready


def test_it_is_not_ready_in_another_mode_than_it_was_ordered_in() -> None:
    odd = template(mode=None)
    found = view(KEY, [odd], made(odd), {})
    assert (found.mode, found.is_ready) == (None, False)
    mixed = [template(2), template(1, SnapshotMode.RESUME)]
    found = view(KEY, mixed, made(*mixed), {})
    assert (found.mode, found.is_ready) == (None, False)


@pytest.mark.parametrize("seconds", [-1, 0, 10**12, 10**30])
def test_an_age_that_is_none_is_not_taken_for_one(seconds: int) -> None:
    odd = replace(template(), created_at_s=seconds)
    assert view(KEY, [odd], None, {}).created_at is None


def test_templates_are_grouped_with_the_newest_of_a_key_first() -> None:
    environment = template(9, None, key="/kernel:/image")
    nameless = template(3, key="")
    groups = group_by_key([template(1), environment, template(2), nameless])
    assert groups == {KEY: [template(2), template(1)], "/kernel:/image": [environment]}
