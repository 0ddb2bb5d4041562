"""From a CodeInterpreter to code in forked machines, on two nodes, with nothing left in the end."""

from __future__ import annotations

import io
from typing import NamedTuple

import pytest
from rich.console import Console

from agentd.image import Image
from bench.cluster.result import ClusterResult
from bench.cluster.show import all_tables
from bench.cluster.story import Plan, Story, compose
from bench.cluster.verdict import find_surprises
from bench.cluster.world import NODES, World
from bench.demo import IMAGES
from controlplane.sessions.decision import StartReason
from tests.integration.cluster.conftest import SETTINGS
from tests.integration.cluster.rights_used import unused
from tests.kube.audit import Request, refused

pytestmark = [pytest.mark.cluster, pytest.mark.vm, pytest.mark.timeout(600)]

PLAN = Plan(sessions=4, pool=1, cold=1, after=2)


class Whole(NamedTuple):
    """What came of it, what was asked of the API server for it."""

    result: ClusterResult
    requests: list[Request]


@pytest.fixture(scope="module")
def whole(may_make_networks: None, guest_image: Image) -> Whole:
    """One whole life, over when the first test begins."""
    world = World(guest_image, IMAGES, settings=SETTINGS)
    with world:
        told = Story(world, PLAN, Console(file=io.StringIO())).tell()
        requests = world.cluster.requests()
    assert world.leaks is not None
    return Whole(compose(world, told, world.leaks, "v1"), requests)


@pytest.fixture(scope="module")
def result(whole: Whole) -> ClusterResult:
    return whole.result


def test_nothing_is_otherwise_than_promised(result: ClusterResult) -> None:
    assert find_surprises(result) == []


def test_the_snapshot_is_ready_on_both_nodes(result: ClusterResult) -> None:
    assert result.snapshot.phase == "Ready"
    assert any((one.target, one.ready) == (2, 2) for one in result.snapshot.counts)


def test_a_session_is_restored_without_anybody_asking_for_it(result: ClusterResult) -> None:
    assert len(result.sessions) == PLAN.sessions
    assert {one.restored for one in result.sessions} == {True}
    assert {one.key for one in result.sessions} == {result.rebuild.old_key}


def test_each_node_has_sessions(result: ClusterResult) -> None:
    assert {one.node for one in result.sessions} == set(NODES)


def test_a_pool_fills_up_from_the_snapshot(result: ClusterResult) -> None:
    assert [one.restored for one in result.refills] == [True, True]


def test_a_session_of_an_edited_template_starts_cold_until_it_is_rebuilt(
    result: ClusterResult,
) -> None:
    (first,) = result.rebuild.meanwhile
    assert not first.restored
    assert first.key == ""
    waiting = {StartReason.NO_ACTIVE_SET, StartReason.NOT_READY, StartReason.HASH_MISMATCH}
    assert first.reason in waiting
    assert {one.restored for one in result.rebuild.after} == {True}
    assert {one.key for one in result.rebuild.after} == {result.rebuild.new_key}


def test_no_two_sessions_share_an_identity(result: ClusterResult) -> None:
    rebuild = result.rebuild
    everyone = [*result.sessions, *result.refills, *rebuild.meanwhile, *rebuild.after]
    replies = [one.reply for one in everyone]
    for name in ("boot_id", "session_id", "hostname"):
        assert len({getattr(reply, name) for reply in replies}) == len(everyone), name


def test_the_death_of_an_agent_ends_no_machine(result: ClusterResult) -> None:
    seen = result.outage
    assert seen.machines > 0
    assert (seen.alive, seen.answered) == (seen.machines, seen.machines)


def test_the_artifact_of_a_node_without_agent_counts_as_unavailable(result: ClusterResult) -> None:
    counts = [(one.phase, one.ready, one.unavailable) for one in result.snapshot.counts]
    assert ("Ready", 1, 1) in counts
    assert counts[-1] == ("Ready", 2, 0)


def test_a_node_without_agent_goes_not_ready(result: ClusterResult) -> None:
    assert result.outage.node_ready == "Unknown"


def test_the_next_agent_carries_every_session_on(result: ClusterResult) -> None:
    assert result.outage.same == result.outage.machines


def test_the_other_node_never_notices(result: ClusterResult) -> None:
    rebuild = result.rebuild
    everyone = [*result.sessions, *rebuild.meanwhile, *rebuild.after]
    elsewhere = sum(one.node != result.outage.node for one in everyone)
    assert result.outage.others == elsewhere > 0


def test_of_a_deleted_snapshot_neither_artifact_nor_record_is_left(result: ClusterResult) -> None:
    assert result.snapshot.left == ()


def test_nothing_is_left(result: ClusterResult) -> None:
    assert result.leaks.count == 0, result.leaks


def test_every_request_was_allowed(whole: Whole) -> None:
    assert whole.requests
    assert refused(whole.requests) == []


@pytest.mark.parametrize("role", ["snapstart-controlplane", "snapstart-virtual-node"])
def test_every_right_was_used(whole: Whole, role: str) -> None:
    assert unused({role}, whole.requests) == set()


def test_everything_is_in_the_tables(result: ClusterResult) -> None:
    sessions = all_tables(result)[1]
    assert len(sessions.rows) == PLAN.sessions + 2 + 1 + PLAN.after
    for table in all_tables(result):
        assert all(len(row) == len(table.columns) for row in table.rows)
