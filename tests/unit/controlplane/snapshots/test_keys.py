"""Names of artifacts, build Sandboxes, tasks."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controlplane.api.keys import key_id
from controlplane.api.types import SnapshotMode, TaskOperation
from controlplane.snapshots.keys import (
    build_sandbox_name,
    normalise_name,
    snapshot_key,
    task_name,
)

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
NAMES = st.text(alphabet="abz019.-_", max_size=253) | st.text(max_size=80)
SERIALS = st.integers(min_value=0, max_value=2**31 - 1)


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("Hello-World", "hello-world"),
        ("foo_bar", "foo-bar"),
        ("--leading", "leading"),
        ("trailing--", "trailing"),
        ("---", ""),
        ("İstanbul", "stanbul"),
    ],
)
def test_names_are_normalised_to_dns_labels(name: str, normal: str) -> None:
    assert normalise_name(name) == normal


def test_key_ends_in_mode_generation_and_sequence() -> None:
    key = snapshot_key("ns", "mysnap", "uid", SnapshotMode.FORK, 3, 2)
    assert re.fullmatch(r"mysnap-[0-9a-f]{10}-fork-g3-r2", key)


def test_key_never_changes_between_versions() -> None:
    key = snapshot_key("default", "python-ready", "6f1c", SnapshotMode.FORK, 12, 1)
    assert key == "python-ready-6d32f39d98-fork-g12-r1"


def test_a_name_without_a_usable_character_is_replaced() -> None:
    assert snapshot_key("ns", "---", "uid", SnapshotMode.RESUME, 1, 1).startswith("snap-")


def test_defect_29_keys_differ_across_namespaces_and_recreation() -> None:
    keys = {
        snapshot_key(namespace, "python-ready", uid, SnapshotMode.FORK, 1, 1)
        for namespace in ("a", "b")
        for uid in ("u1", "u2")
    }
    assert len(keys) == 4


def test_parts_of_an_identity_cannot_trade_characters() -> None:
    first = snapshot_key("a", "b", "c", SnapshotMode.FORK, 1, 1)
    assert first != snapshot_key("", "b", "ac", SnapshotMode.FORK, 1, 1)
    assert first != snapshot_key("a", "b", "", SnapshotMode.FORK, 1, 1)


@given(NAMES, NAMES, NAMES, SERIALS, SERIALS)
@example("n", "x" * 253, "u", 2**31 - 1, 2**31 - 1)
@example("n", "a" * 31 + "." + "b" * 31, "u", 2**31 - 1, 1)
def test_every_key_is_a_dns_label(
    namespace: str, name: str, uid: str, generation: int, seq: int
) -> None:
    for mode in SnapshotMode:
        assert LABEL.fullmatch(snapshot_key(namespace, name, uid, mode, generation, seq))


@given(NAMES, NAMES, NAMES, SERIALS)
@example("9" * 80, "k", "n", 1)
def test_defect_28_every_object_name_is_a_label_that_starts_with_a_letter(
    snapshot: str, key: str, node: str, attempt: int
) -> None:
    made = [build_sandbox_name(snapshot, key, node, attempt)]
    made += [task_name(key, node, attempt, operation) for operation in TaskOperation]
    for name in made:
        assert LABEL.fullmatch(name)
        assert name[0].isalpha()
    assert LABEL.fullmatch(key_id(key))


@given(st.lists(st.tuples(NAMES, NAMES, SERIALS), unique=True, max_size=20))
@example([("k", "node.a", 1), ("k", "node-a", 1), ("k", "node_a", 1)])
@example([("k" * 80, "n", 1), ("k" * 80 + "x", "n", 1), ("k", "n1", 1), ("k", "n", 11)])
def test_defect_28_names_of_different_attempts_differ(
    identities: list[tuple[str, str, int]],
) -> None:
    tasks = {
        task_name(key, node, attempt, operation)
        for key, node, attempt in identities
        for operation in TaskOperation
    }
    assert len(tasks) == len(identities) * len(TaskOperation)
    builds = {build_sandbox_name("same", *identity) for identity in identities}
    assert len(builds) == len(identities)


def test_defect_27_a_rebuild_has_a_build_sandbox_of_its_own() -> None:
    old, new = (snapshot_key("ns", "s", "u", SnapshotMode.FORK, 1, seq) for seq in (1, 2))
    assert build_sandbox_name("s", old, "n", 1) != build_sandbox_name("s", new, "n", 1)
