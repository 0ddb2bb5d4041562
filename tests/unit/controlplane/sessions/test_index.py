from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.types import SandboxSnapshot, SnapshotMode
from controlplane.sessions.index import GroupKey, SessionIndex
from tests.fakes.session_world import NAMESPACE, TEMPLATE, make_snapshot

GROUP = GroupKey(NAMESPACE, TEMPLATE, SnapshotMode.FORK)


def names_of(index: SessionIndex, group: GroupKey = GROUP) -> list[str]:
    return [one.metadata.name for one in index.candidates(group, 100)]


def indexed(*snapshots: SandboxSnapshot) -> SessionIndex:
    index = SessionIndex()
    for snapshot in snapshots:
        index.put_snapshot(snapshot)
    return index


def test_the_newest_comes_first_then_the_name() -> None:
    index = indexed(
        make_snapshot("old", age_s=50), make_snapshot("b", age_s=5), make_snapshot("a", age_s=5)
    )
    assert names_of(index) == ["a", "b", "old"]


def test_a_terminating_snapshot_is_no_candidate() -> None:
    index = indexed(make_snapshot(terminating=True))
    assert names_of(index) == []
    assert index.has_any(GROUP)


def test_a_snapshot_that_is_not_ready_is_known_but_no_candidate() -> None:
    for phase in ("Pending", "Creating", "Failed"):
        index = indexed(make_snapshot(phase=phase))
        assert names_of(index) == []
        assert index.has_any(GROUP)


def test_other_namespaces_templates_and_modes_are_apart() -> None:
    resume = {"apiGroup": "agents.x-k8s.io", "kind": "Sandbox", "name": TEMPLATE}
    index = indexed(
        make_snapshot("a", namespace="team-b"),
        make_snapshot("b", template="node"),
        make_snapshot("c", snapshotMode="Resume", sourceRef=resume),
    )
    assert not index.has_any(GROUP)


def test_a_source_of_another_group_is_no_template() -> None:
    source = {"apiGroup": "example.org", "kind": "SandboxTemplate", "name": TEMPLATE}
    assert not indexed(make_snapshot(sourceRef=source)).has_any(GROUP)


def test_a_change_replaces_what_was_known() -> None:
    index = indexed(make_snapshot("a"), make_snapshot("a", phase="Failed"))
    assert names_of(index) == []
    index.put_snapshot(make_snapshot("a"))
    assert names_of(index) == ["a"]


def test_a_snapshot_made_again_replaces_the_one_before() -> None:
    index = indexed(make_snapshot("a", uid="one", age_s=9), make_snapshot("a", uid="two", age_s=1))
    assert [one.metadata.uid for one in index.candidates(GROUP, 9)] == ["two"]


def test_dropping_forgets_everything_of_it_and_repeats() -> None:
    index = indexed(make_snapshot("a"))
    for _ in range(2):
        index.drop_snapshot(NAMESPACE, "a")
    assert not index.has_any(GROUP)
    assert index.snapshots_of_class("qemu") == []


def test_only_as_many_candidates_as_asked_for() -> None:
    index = indexed(*(make_snapshot(f"s{n:03}", age_s=n) for n in range(50)))
    assert [one.metadata.name for one in index.candidates(GROUP, 3)] == ["s000", "s001", "s002"]


def test_the_users_of_a_class_are_known() -> None:
    index = indexed(make_snapshot("a"), make_snapshot("b", snapshotClassName="other"))
    assert [one.metadata.name for one in index.snapshots_of_class("other")] == ["b"]
    index.put_snapshot(make_snapshot("b"))
    assert index.snapshots_of_class("other") == []
    assert len(index.snapshots_of_class("qemu")) == 2


_shapes = st.tuples(
    st.sampled_from("abcdef"),  # name
    st.sampled_from(["u1", "u2"]),
    st.sampled_from([1, 2, 2, 3]),  # equal seconds are frequent
    st.sampled_from(["Ready", "Ready", "Creating"]),
    st.booleans(),
)


@given(st.lists(_shapes, unique_by=lambda shape: shape[0]), st.randoms())
def test_every_order_of_arrival_gives_the_same_order(
    shapes: list[tuple[str, str, int, str, bool]], shuffler: random.Random
) -> None:
    snapshots = [
        make_snapshot(name, uid=uid, age_s=age, phase=phase, terminating=gone)
        for name, uid, age, phase, gone in shapes
    ]
    expected = names_of(indexed(*snapshots))
    shuffler.shuffle(snapshots)
    noisy = indexed(*snapshots, *snapshots[::2])
    assert names_of(noisy) == expected


@given(st.lists(st.tuples(st.booleans(), _shapes)))
def test_the_index_equals_one_made_from_what_is_left(
    events: list[tuple[bool, tuple[str, str, int, str, bool]]],
) -> None:
    index, left = SessionIndex(), {}
    for is_put, (name, uid, age, phase, gone) in events:
        if is_put:
            left[name] = make_snapshot(name, uid=uid, age_s=age, phase=phase, terminating=gone)
            index.put_snapshot(left[name])
        else:
            left.pop(name, None)
            index.drop_snapshot(NAMESPACE, name)
    fresh = indexed(*left.values())
    assert names_of(index) == names_of(fresh)
    assert index.has_any(GROUP) == fresh.has_any(GROUP)
