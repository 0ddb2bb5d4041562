"""Typed copies follow the objects, their indexes follow them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.core import Node
from controlplane.api.meta import JsonObject
from controlplane.errors import PeerError
from controlplane.kube.cache import Changed, ObjectCache


def _node(name: str, version: int = 1, uid: str = "u", **labels: str) -> JsonObject:
    meta = {"name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"metadata": meta}


def _cache() -> ObjectCache[Node]:
    return ObjectCache(Node, {"zone": lambda node: filter(None, [node.metadata.label("zone")])})


def _shape(changes: tuple[Changed[Node], ...]) -> list[tuple[bool, bool]]:
    return [(change.old is not None, change.new is not None) for change in changes]


def test_the_same_version_again_changes_nothing() -> None:
    cache = _cache()
    assert _shape(cache.put(_node("a"))) == [(False, True)]
    assert cache.put(_node("a")) == ()
    assert _shape(cache.put(_node("a", 2))) == [(True, True)]


def test_a_recreated_object_is_gone_then_there() -> None:
    cache = _cache()
    cache.put(_node("a"))
    assert _shape(cache.put(_node("a", 2, uid="other"))) == [(True, False), (False, True)]


def test_a_list_without_an_object_says_that_it_is_gone() -> None:
    cache = _cache()
    cache.put(_node("a"))
    cache.put(_node("b"))
    changes = cache.replace([_node("b"), _node("c", 3)])
    assert [(change.key[1], change.new is None) for change in changes] == [
        ("a", True),
        ("c", False),
    ]


def test_an_object_that_does_not_fit_keeps_the_copy_from_before() -> None:
    cache = _cache()
    cache.put(_node("a", zone="z"))
    broken: dict[str, Any] = {"metadata": {"name": "a", "uid": "u", "labels": [1]}}
    assert cache.put(broken) == ()
    assert [problem.key for problem in cache.undecodable.values()] == [("", "a")]
    assert [node.metadata.name for node in cache.by_index("zone", "z")] == ["a"]
    assert _shape(cache.put(_node("a", 3))) == [(True, True)]
    assert not cache.undecodable
    assert cache.by_index("zone", "z") == ()


def test_an_undecodable_object_can_go() -> None:
    cache = _cache()
    cache.put({"metadata": {"name": "a", "labels": [1]}})
    assert cache.drop(("", "a")) == ()
    assert not cache.undecodable
    cache.put({"metadata": {"name": "a", "labels": [1]}})
    assert cache.replace([]) == ()
    assert not cache.undecodable


def test_an_indexer_that_fails_does_not_lose_the_others() -> None:
    cache = ObjectCache(Node, {"x": lambda node: [(node.metadata.labels or {})["x"]]})
    cache.replace([_node("a"), _node("b", x="1")])
    assert [node.metadata.name for node in cache.all()] == ["b"]
    assert "KeyError" in cache.undecodable["", "a"].message


def test_an_object_without_a_name_is_refused_before_anything_changes() -> None:
    cache = _cache()
    cache.put(_node("a"))
    with pytest.raises(PeerError):
        cache.replace([_node("b"), {"metadata": {}}])
    assert [node.metadata.name for node in cache.all()] == ["a"]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["", "y", "z"]), st.booleans()),
        max_size=30,
    )
)
def test_indexes_equal_a_search(steps: list[tuple[str, str, bool]]) -> None:
    cache = _cache()
    for version, (name, zone, is_gone) in enumerate(steps, 1):
        if is_gone:
            cache.drop(("", name))
        else:
            cache.put(_node(name, version, zone=zone))
    for zone in ("y", "z"):
        found = {node.metadata.name for node in cache.by_index("zone", zone)}
        assert found == {n.metadata.name for n in cache.all() if n.metadata.label("zone") == zone}
    assert set(cache._indexes["zone"]) == {n.metadata.label("zone") for n in cache.all()} - {""}
