"""Which forks are recorded, when records are merged, what is dropped."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agentd.pager.working_sets import (
    Found,
    Source,
    image_digest,
    is_to_be_merged,
    is_to_be_recorded,
    sort_files,
)
from tests.unit.store.samples import MANIFEST

DIGEST, OTHER = "ab" * 32, "cd" * 32


def found(*recorded: str, has_set: bool = False) -> Found:
    return Found(has_set, frozenset(recorded), frozenset())


def test_files_are_known_by_their_names() -> None:
    names = [f"{DIGEST}.set", f"{DIGEST}.s-1.record", f"{DIGEST}.a.b.record", f"{OTHER}.set"]
    assert sort_files(names, DIGEST, is_quiet=False) == Found(
        True, frozenset({"s-1", "a.b"}), frozenset({f"{OTHER}.set"})
    )


def test_files_of_other_memory_are_dropped() -> None:
    names = [f"{OTHER}.set", f"{OTHER}.s-1.record", "nonsense"]
    assert sort_files(names, DIGEST, is_quiet=False) == Found(False, frozenset(), frozenset(names))


def test_what_is_half_made_is_dropped_once_nobody_can_be_at_it() -> None:
    names = [f"{DIGEST}.set.Xy12ab", f"{DIGEST}.s-1.record.Xy12ab"]
    assert sort_files(names, DIGEST, is_quiet=False).stale == frozenset()
    assert sort_files(names, DIGEST, is_quiet=True).stale == frozenset(names)


def test_a_record_is_kept_while_nobody_writes() -> None:
    assert sort_files([f"{DIGEST}.s-1.record"], DIGEST, is_quiet=True) == found("s-1")


@pytest.mark.parametrize(
    ("have", "claimed", "wanted", "recorded"),
    [
        (found(), [], 3, True),
        (found("a"), ["b"], 3, True),
        (found("a", "b"), ["c"], 3, False),
        (found("a", "b", "c"), [], 3, False),
        (found("a"), ["a", "b"], 3, True),
        (found(has_set=True), [], 3, False),
        (found(), [], 0, False),
    ],
    ids=["first", "third", "enough to come", "enough", "written and claimed", "made", "off"],
)
def test_the_first_forks_are_recorded_and_no_more(
    have: Found, claimed: list[str], wanted: int, recorded: bool
) -> None:
    assert is_to_be_recorded(have, claimed, wanted) is recorded


@pytest.mark.parametrize(
    ("have", "wanted", "merged"),
    [
        (found("a", "b"), 3, False),
        (found("a", "b", "c"), 3, True),
        (found("a", "b", "c", "d"), 3, True),
        (found("a", "b", "c", has_set=True), 3, False),
        (found(), 0, False),
        (found("a"), 0, False),
    ],
    ids=["too few", "enough", "more", "made", "off", "off with an old record"],
)
def test_enough_records_are_merged_once(have: Found, wanted: int, merged: bool) -> None:
    assert is_to_be_merged(have, wanted) is merged


def test_files_are_in_the_templates_directory_under_its_digest() -> None:
    source = Source(Path("/t/py"), Path("/t/py/memory"), DIGEST)
    assert source.working_set == Path("/t/py/pages") / f"{DIGEST}.set"
    assert source.record("s-1") == Path("/t/py/pages") / f"{DIGEST}.s-1.record"


def test_every_memory_has_a_digest_of_its_own() -> None:
    memory = MANIFEST.memory
    others = [
        msgspec.structs.replace(memory, size_bytes=memory.size_bytes + 4096),
        msgspec.structs.replace(memory, chunk_hashes=memory.chunk_hashes[::-1]),
        msgspec.structs.replace(memory, chunk_hashes=memory.chunk_hashes[:1]),
        msgspec.structs.replace(memory, chunk_hashes=("".join(memory.chunk_hashes),)),
    ]
    digests = {image_digest(one) for one in (memory, *others)}
    assert len(digests) == 5
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in digests)
