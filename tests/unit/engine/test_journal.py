"""The journal replays what was written, whatever a crash left of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.engine import journal as journal_module
from agentd.engine.journal import Journal, decode_lines, encode_line
from agentd.engine.journal_records import (
    JournalState,
    Opened,
    Record,
    Role,
    SessionFacts,
    TemplateBegun,
    TemplateFailed,
    TemplateSettled,
    VmEnding,
    VmGone,
    VmIntended,
    VmRunning,
    records_of,
    replay,
)
from agentd.errors import (
    ConfigError,
    ErrorCode,
    InvariantError,
    PermanentError,
    TransientError,
)
from agentd.wire.api import SessionMode

_ids = st.sampled_from(["s-1", "s-2", "t-1"])
_text = st.text(max_size=20)
_facts = st.builds(
    SessionFacts,
    template=_text,
    mode=st.sampled_from(SessionMode),
    created_at_s=st.floats(0, 1e10),
    expires_at_s=st.floats(0, 1e10),
    idle_timeout_s=st.floats(0, 1e6),
    hostname=_text,
    metadata=st.dictionaries(_text, _text, max_size=2),
)
_records: st.SearchStrategy[Record] = st.one_of(
    st.builds(Opened, _text),
    st.builds(VmIntended, _ids, st.sampled_from(Role), _text),
    st.builds(VmRunning, _ids, st.integers(1, 9), st.integers(1, 9), st.none() | _facts),
    st.builds(VmEnding, _ids, _text),
    st.builds(VmGone, _ids),
    st.builds(TemplateBegun, _ids, _text, _text, st.integers(1, 9), st.just(1), st.just(1.0)),
    st.builds(TemplateFailed, _ids, _text, _text, _text),
    st.builds(TemplateSettled, _ids),
)
_journals = st.lists(_records, max_size=20)


def encode(records: list[Record]) -> bytes:
    return b"".join(map(encode_line, records))


@given(_journals)
def test_what_was_written_is_read(records: list[Record]) -> None:
    data = encode(records)
    assert decode_lines(data, "j") == (records, len(data))


@given(_journals, st.integers(0, 400))
def test_a_torn_tail_loses_only_the_record_that_was_torn(records: list[Record], cut: int) -> None:
    data = encode(records)
    torn = data[: max(0, len(data) - cut)]
    read, good_bytes = decode_lines(torn, "j")
    assert read == records[: len(read)]
    assert good_bytes == len(encode(read))
    assert torn[good_bytes:].count(b"\n") == 0


@given(_journals, st.binary(max_size=40).filter(lambda tail: not tail.startswith(b"1 ")))
def test_garbage_at_the_end_is_dropped(records: list[Record], garbage: bytes) -> None:
    assert decode_lines(encode(records) + garbage, "j")[0] == records


@given(st.lists(_records, min_size=2, max_size=6), st.data())
def test_damage_before_a_good_line_is_refused_with_its_line(
    records: list[Record], data: st.DataObject
) -> None:
    lines = [bytearray(encode_line(record)) for record in records]
    number = data.draw(st.integers(0, len(lines) - 2))
    at = data.draw(st.integers(0, len(lines[number]) - 2))
    lines[number][at] ^= 0x01
    with pytest.raises(PermanentError, match=f"line {number + 1} is") as caught:
        decode_lines(b"".join(lines), "j")
    assert caught.value.code is ErrorCode.CONFIG_INVALID


@given(_journals)
def test_compaction_changes_nothing(records: list[Record]) -> None:
    state = replay(records)
    assert replay(records_of(state)) == state


@given(_journals, _journals)
def test_replay_can_go_on_from_a_compacted_state(first: list[Record], second: list[Record]) -> None:
    whole = replay(first + second)
    assert replay(records_of(replay(first)) + second) == whole


def test_a_record_about_what_is_gone_changes_nothing() -> None:
    records: list[Record] = [
        VmIntended("a", Role.SESSION, "/r"),
        VmGone("a"),
        VmRunning("a", 1, 1),
        VmEnding("a", "late"),
        TemplateFailed("t", "c", "m", "h"),
    ]
    assert replay(records) == JournalState()


def test_a_successor_reads_what_was_appended_after_a_torn_write(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, _ = Journal.open(path, "boot-1")
    journal.append(VmIntended("a", Role.SESSION, "/r"))
    journal.close()
    with path.open("ab") as file:
        file.write(b"1 00000000 {half")
    journal, found = Journal.open(path, "boot-2")
    assert (found.boot_id, set(found.vms)) == ("boot-1", {"a"})
    journal.append(VmGone("a"))
    journal.close()
    journal, found = Journal.open(path, "boot-3")
    assert found == JournalState("boot-2", {}, {})
    journal.close()
    journal.close()


def test_a_run_directory_in_use_is_refused_before_its_journal_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, _ = Journal.open(path, "boot")
    journal.append(VmIntended("a", Role.SESSION, "/r"))
    before = path.read_bytes(), path.stat().st_ino
    with pytest.raises(ConfigError, match=f"pid {os.getpid()} uses it") as refused:
        Journal.open(path, "boot")
    assert "run_dir" in refused.value.hint
    assert (path.read_bytes(), path.stat().st_ino) == before
    journal.append(VmGone("a"))
    journal.close()
    Journal.open(path, "boot")[0].close()


def test_a_damaged_journal_leaves_its_directory_unlocked(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"bad\n" + encode_line(VmGone("a")))
    for _ in range(2):
        with pytest.raises(PermanentError):
            Journal.open(path, "boot")


def test_a_full_disk_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal, _ = Journal.open(path, "boot")
    before = path.read_bytes()
    real_write = os.write

    def half(fd: int, data: bytes) -> int:
        return real_write(fd, data[: len(data) // 2])

    def none(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    for failing in (half, none):
        monkeypatch.setattr(os, "write", failing)
        with pytest.raises(TransientError):
            journal.append(VmGone("a"))
        monkeypatch.setattr(os, "write", real_write)
        assert path.read_bytes() == before
    journal.close()


def test_a_long_journal_is_rewritten_in_its_shortest_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_COMPACT_EVERY", 4)
    path = tmp_path / "journal"
    journal, _ = Journal.open(path, "boot")
    for _ in range(10):
        journal.append(VmIntended("a", Role.SESSION, "/r"))
        journal.append(VmGone("a"))
        assert len(path.read_bytes().splitlines()) <= 5
    journal.append(VmIntended("b", Role.SESSION, "/r"))
    journal.close()
    assert set(replay(decode_lines(path.read_bytes(), "it")[0]).vms) == {"b"}
    with pytest.raises(InvariantError):
        journal.append(VmGone("b"))


def test_a_journal_that_cannot_be_rewritten_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal, _ = Journal.open(path, "boot-1")
    journal.append(VmIntended("a", Role.SESSION, "/r"))
    journal.close()
    before = path.read_bytes()

    def none(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", none)
    with pytest.raises(TransientError):
        Journal.open(path, "boot-2")
    assert path.read_bytes() == before
