"""What is remembered of orders, on a real file system."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agentd.errors import ConfigError, ErrorCode, PermanentError, TransientError
from agentd.providers.driver import SnapshotOwner
from agentd.providers.ledger import DamagedOrder, Ledger, Order, OrderState
from controlplane.api.types import SnapshotMode

KEY = "python-0123456789-fork-g1-r1"
ORDER = Order(
    key=KEY,
    snapshot_hash="sha256:one",
    mode=SnapshotMode.FORK,
    owner=SnapshotOwner("cluster", "team", "python", "snap-uid"),
    pod_uid="uid-1",
    state=OrderState.ORDERED,
    ordered_at=datetime(2026, 1, 1, 12, tzinfo=UTC),
)
MADE = msgspec.structs.replace(
    ORDER,
    state=OrderState.MADE,
    made_at=ORDER.ordered_at + timedelta(minutes=1),
    template_ids=("0" * 32,),
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "deep" / "ledger")


def test_a_record_is_found_again_by_a_successor(ledger: Ledger) -> None:
    ledger.put(ORDER)
    assert ledger.find(KEY) == ORDER
    ledger.put(MADE)
    again = Ledger(ledger.path)
    assert again.find(KEY) == MADE
    assert again.all() == {KEY: MADE}
    assert os.listdir(ledger.path) == [KEY]


def test_there_is_none_of_a_key_that_was_never_ordered(ledger: Ledger) -> None:
    assert ledger.find(KEY) is None
    assert ledger.all() == {}


def test_a_forgotten_record_is_gone(ledger: Ledger) -> None:
    ledger.put(ORDER)
    ledger.forget(ORDER)
    ledger.forget(ORDER)
    assert ledger.find(KEY) is None
    assert os.listdir(ledger.path) == []


def test_a_record_that_was_replaced_meanwhile_is_not_forgotten(ledger: Ledger) -> None:
    ledger.put(MADE)
    ledger.forget(ORDER)
    assert ledger.find(KEY) == MADE


def test_the_longest_key_and_those_that_differ_in_case_have_files_of_their_own(
    ledger: Ledger,
) -> None:
    keys = ["k" * 253, "K" * 253, "a..b", "a"]
    for key in keys:
        ledger.put(msgspec.structs.replace(ORDER, key=key))
    assert sorted(ledger.all()) == sorted(keys)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"{",
        b"null",
        b"\xff\xfe",
        msgspec.json.encode(ORDER)[:-20],
        msgspec.json.encode(ORDER).replace(b'"version":1', b'"version":2'),
        msgspec.json.encode(ORDER).replace(b'"state":"ordered"', b'"state":"lost"'),
        msgspec.json.encode(ORDER).replace(b'"version"', b'"more":1,"version"'),
        msgspec.json.encode(ORDER).replace(b"12:00:00Z", b"12:00:00"),
        msgspec.json.encode(msgspec.structs.replace(ORDER, key="another")),
    ],
    ids=[
        *("empty", "blank", "torn", "null", "binary", "cut", "newer", "unknown-state", "more"),
        *("no-zone", "another-key"),
    ],
)
def test_a_file_that_is_no_record_is_told_apart_from_none(ledger: Ledger, content: bytes) -> None:
    (ledger.path / KEY).write_bytes(content)
    damaged = ledger.find(KEY)
    assert isinstance(damaged, DamagedOrder)
    assert damaged.why
    ledger.put(msgspec.structs.replace(ORDER, key="sound"))
    assert isinstance(ledger.all()[KEY], DamagedOrder), "and keeps nobody from the others"
    assert isinstance(ledger.all()["sound"], Order)
    ledger.forget(damaged)
    assert ledger.find(KEY) is None


def test_a_damaged_record_can_be_replaced(ledger: Ledger) -> None:
    (ledger.path / KEY).write_bytes(b"{")
    ledger.put(ORDER)
    assert ledger.find(KEY) == ORDER


def test_a_link_or_what_others_may_write_is_no_record(ledger: Ledger, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(msgspec.json.encode(ORDER))
    (ledger.path / KEY).symlink_to(elsewhere)
    found = ledger.find(KEY)
    assert isinstance(found, DamagedOrder)
    assert "symbolic link" in found.why
    (ledger.path / KEY).unlink()
    ledger.put(ORDER)
    (ledger.path / KEY).chmod(0o666)
    found = ledger.find(KEY)
    assert isinstance(found, DamagedOrder)
    assert "others may write" in found.why


def test_what_a_killed_daemon_left_half_written_is_nothing(ledger: Ledger) -> None:
    ledger.put(ORDER)
    (ledger.path / f".{KEY}").write_bytes(b'{"half"')
    assert ledger.all() == {KEY: ORDER}
    ledger.put(MADE)
    (ledger.path / f".{KEY}").write_bytes(b'{"half"')
    assert Ledger(ledger.path).all() == {KEY: MADE}
    assert os.listdir(ledger.path) == [KEY]


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger").chmod(0o777)
    with pytest.raises(ConfigError, match="others may write") as caught:
        Ledger(tmp_path / "ledger")
    assert caught.value.code is ErrorCode.PERMISSION_DENIED
    assert "mode 700" in caught.value.hint


def test_a_ledger_that_was_taken_away_is_an_error_and_not_empty(ledger: Ledger) -> None:
    ledger.path.rename(ledger.path.with_name("away"))
    with pytest.raises(PermanentError, match="reading the ledger"):
        ledger.find(KEY)
    with pytest.raises(PermanentError, match="reading the ledger"):
        ledger.all()
    with pytest.raises(PermanentError, match="writing the ledger"):
        ledger.put(ORDER)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_cannot_be_read_now_is_an_error_and_not_none(ledger: Ledger) -> None:
    ledger.put(ORDER)
    with no_descriptor_left(), pytest.raises(TransientError) as caught:
        ledger.find(KEY)
    assert caught.value.code is ErrorCode.NODE_FULL
    assert ledger.find(KEY) == ORDER


@contextmanager
def no_byte_left() -> Iterator[None]:
    """Of the largest file that may be written; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_record_that_does_not_fit_leaves_the_former_one(ledger: Ledger) -> None:
    ledger.put(ORDER)
    with no_byte_left(), pytest.raises(TransientError) as caught:
        ledger.put(MADE)
    assert caught.value.code is ErrorCode.DISK_FULL
    assert ledger.find(KEY) == ORDER
    ledger.put(MADE)
    assert ledger.find(KEY) == MADE
    assert os.listdir(ledger.path) == [KEY]
