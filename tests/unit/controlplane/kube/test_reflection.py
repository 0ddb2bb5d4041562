"""What an informer asks next, by what it was told."""

from __future__ import annotations

from random import Random

import pytest

from controlplane.api.core import Node
from controlplane.errors import (
    ControlPlaneError,
    ExpiredError,
    ForbiddenError,
    NotFoundError,
    PeerError,
    UnavailableError,
)
from controlplane.kube.api import Page, WatchEvent, WatchKind
from controlplane.kube.backoff import Backoff
from controlplane.kube.cache import ObjectCache
from controlplane.kube.reflection import FollowPolicy, Reflection, Step


def _reflection() -> Reflection[Node]:
    policy = FollowPolicy(backoff=Backoff(base_s=1.0, cap_s=8.0, jitter=0.0), relist_s=100.0)
    return Reflection(ObjectCache(Node), Random(1), policy)


def _listed(version: str = "10") -> Reflection[Node]:
    state = _reflection()
    state.listed([Page((), version)], now_s=0.0)
    return state


def _event(kind: WatchKind, version: str, name: str = "a") -> WatchEvent:
    return WatchEvent(kind, {"metadata": {"name": name, "uid": name, "resourceVersion": version}})


def test_it_lists_then_watches() -> None:
    state = _reflection()
    assert state.next_step(0.0) is Step.LIST
    state.listed([Page((), "10", "more"), Page((), "11")], now_s=0.0)
    assert (state.next_step(1.0), state.version) == (Step.WATCH, "10")


def test_events_and_bookmarks_move_the_version() -> None:
    state = _listed()
    assert len(state.seen(_event(WatchKind.ADDED, "11"))) == 1
    assert state.seen(_event(WatchKind.BOOKMARK, "20")) == ()
    assert state.version == "20"
    assert len(state.seen(_event(WatchKind.DELETED, "21"))) == 1


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (ExpiredError("x"), Step.LIST),
        (PeerError("x"), Step.LIST),
        (ForbiddenError("x"), Step.LIST),
        (NotFoundError("x"), Step.LIST),
        (UnavailableError("x"), Step.CHECK),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_failures_decide_where_to_go_on(error: ControlPlaneError, step: Step) -> None:
    state = _listed()
    assert state.failed(error, 0.0) > 0
    assert state.next_step(1.0) is step


@pytest.mark.parametrize(
    ("version", "step"),
    [("9", Step.LIST), ("10", Step.WATCH), ("11", Step.WATCH), ("opaque", Step.WATCH)],
)
def test_a_server_with_an_older_state_is_listed_anew(version: str, step: Step) -> None:
    state = _listed()
    state.failed(UnavailableError("x"), 0.0)
    state.checked(version)
    assert state.next_step(1.0) is step


def test_an_event_from_before_is_never_taken_in() -> None:
    state = _listed()
    with pytest.raises(ExpiredError):
        state.seen(_event(WatchKind.ADDED, "9"))
    assert state.cache.all() == ()


@pytest.mark.parametrize("body", [{}, {"metadata": {}}, {"metadata": {"resourceVersion": "11"}}])
def test_an_event_without_identity_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(PeerError):
        _listed().seen(WatchEvent(WatchKind.ADDED, body))


def test_delays_double_up_to_the_cap_and_obey_the_server() -> None:
    state = _listed()
    delays = [state.failed(UnavailableError("x"), 0.0) for _ in range(5)]
    assert delays == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert state.failed(UnavailableError("x", delay_s=30.0), 0.0) == 30.0
    state.seen(_event(WatchKind.BOOKMARK, "11"))
    assert state.failed(UnavailableError("x"), 0.0) == 1.0


def test_a_failure_after_a_long_watch_is_the_first() -> None:
    state = _listed()
    for _ in range(4):
        state.failed(UnavailableError("x"), 0.0)
    assert state.failed(UnavailableError("x"), 600.0) == 1.0


def test_watches_that_end_at_once_are_not_repeated_in_a_loop() -> None:
    state = _listed()
    assert [state.ended(0.01) for _ in range(3)] == [1.0, 2.0, 4.0]
    assert state.ended(300.0) == 0.0
    state.seen(_event(WatchKind.ADDED, "11"))
    assert state.ended(0.01) == 0.0


def test_a_whole_list_comes_once_in_a_while() -> None:
    state = _listed()
    assert state.next_step(99.0) is Step.WATCH
    assert state.next_step(121.0) is Step.LIST
