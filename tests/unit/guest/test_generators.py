"""Reseeding, hooks: what runs, in which order, from which entropy."""

from __future__ import annotations

import os
import random
import tempfile
import uuid

import pytest

from agentd.guest import generators, snapshot_restore_py
from agentd.guest.effects import random_uuid
from agentd.guest.hooks import HookError


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "_registered", [])
    monkeypatch.setattr(snapshot_restore_py, "_before_snapshot", [])
    monkeypatch.setattr(snapshot_restore_py, "_after_restore", [])


@pytest.fixture(autouse=True)
def uuid_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_generate_time_safe", "_last_timestamp", "_node"):
        monkeypatch.setattr(uuid, name, getattr(uuid, name))


def test_equal_states_draw_different_numbers_after_reseeding() -> None:
    state = random.getstate()
    draws = []
    for _ in range(2):
        random.setstate(state)
        generators.reseed_all()
        draws.append(random.random())
    assert draws[0] != draws[1]


def test_numpy_draws_different_numbers_and_no_gaussian_is_left_over() -> None:
    numpy_random = pytest.importorskip("numpy").random
    numpy_random.seed(1)
    numpy_random.normal()
    state = numpy_random.get_state()
    draws = []
    for _ in range(2):
        numpy_random.set_state(state)
        generators.reseed_all()
        draws.append((numpy_random.random(), numpy_random.normal()))
    assert draws[0][0] != draws[1][0]
    assert draws[0][1] != draws[1][1]


def test_uuid_node_and_temporary_names_are_new() -> None:
    first = uuid.uuid1().node
    tempfile.gettempdir()
    tempfile._get_candidate_names()
    generators.reseed_all()
    assert uuid.uuid1().node != first
    assert uuid.uuid1().node >> 40 & 1
    assert tempfile._name_sequence is None


def test_registered_generators_run_and_their_failure_is_not_hidden() -> None:
    calls = []
    generators.register_generator(lambda: calls.append("a"))

    @generators.register_generator
    def broken() -> None:
        raise OSError("no entropy")

    with pytest.raises(HookError, match=r"broken raised OSError: no entropy"):
        generators.reseed_all()
    assert calls == ["a"]


def test_without_kernel_entropy_reseeding_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_size: int) -> bytes:
        raise NotImplementedError("no getrandom")

    monkeypatch.setattr(os, "urandom", fail)
    with pytest.raises(NotImplementedError):
        generators.reseed_all()


def test_hooks_run_in_the_orders_of_the_lambda_module() -> None:
    calls: list[str] = []

    @snapshot_restore_py.register_before_snapshot
    def first() -> None:
        calls.append("first")

    snapshot_restore_py.register_before_snapshot(calls.append, "second")
    snapshot_restore_py.register_after_restore(calls.append, "third")
    snapshot_restore_py.register_after_restore(calls.append, "fourth")
    snapshot_restore_py.run_before_snapshot()
    snapshot_restore_py.run_after_restore()
    assert calls == ["second", "first", "third", "fourth"]


def test_a_random_uuid_is_of_version_4() -> None:
    value = uuid.UUID(random_uuid())
    assert (value.version, value.variant) == (4, uuid.RFC_4122)
    assert random_uuid() != random_uuid()
