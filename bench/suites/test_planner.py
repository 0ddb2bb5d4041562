"""What does the snapshot controller's decision cost?"""

from __future__ import annotations

from functools import cache

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.planner import Size, measure
from bench.suites.series import Series
from controlplane.snapshots.observed import Observed
from controlplane.snapshots.plan import plan_snapshot
from tests.fakes.snapshot_world import World, make_ready_world

NODES = 20


@cache
def ready_world() -> World:
    """A snapshot that is Ready on all of its nodes."""
    return make_ready_world(*(f"node-{number:02}" for number in range(NODES)))


def seen() -> Observed:
    """What the controller would see of it."""
    return ready_world().observe()


def test_nothing_is_to_do(benchmark: BenchmarkFixture) -> None:
    """From what is observed of a snapshot that is Ready on 20 nodes to its empty plan."""
    benchmark.extra_info["dims"] = {"nodes": str(NODES)}
    assert not benchmark(plan_snapshot, seen(), ready_world().now).steps


@pytest.mark.budget(quick_s=16, quick=3, full=20)
def test_a_controller_with_many_snapshots(series: Series) -> None:
    """planner.cpu: processor seconds of this process for 50 snapshots on 10 nodes, by phase.

    build: from nothing to Ready everywhere; node_cordoned: one node's change that concerns all of
    them. The controller is the production one; API server, store, agents are stand-ins in memory,
    in simulated time.
    """
    series.describe("planner.round", machine="stand-in", unit="s")

    def after(found: dict[str, object]) -> None:
        for phase in ("build", "node_cordoned", "node_heartbeat"):
            series.also(
                "planner.cpu", float(str(found[f"{phase}_cpu_s"])), unit="s",
                machine_kind="stand-in", phase=phase,
            )  # fmt: skip

    series.rounds(lambda: measure(Size(50, 10, 1)), after=after)
