"""Every number that is declared moves."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from controlplane.snapshots.metrics import SnapshotMetrics
from controlplane.snapshots.steps import Count, Metric
from tests.fakes.snapshot_world import START, make_ready_world

LABELS = {
    Metric.BUILD_TASKS: {"phase": "Ready"},
    Metric.BUILD_SECONDS: {"provider": "snapstart.qemu.org", "mode": "Fork"},
    Metric.REBUILDS: {"reason": "force"},
    Metric.RECORDS_REMOVED: {"reason": "promoted"},
    Metric.PHYSICAL_DELETES: {"result": "deleted"},
}
SERIES = {
    Metric.BUILD_TASKS: "agentcube_snapshot_build_task_total",
    Metric.BUILD_SECONDS: "agentcube_sandbox_snapshot_build_duration_seconds_sum",
    Metric.REBUILDS: "agentcube_sandbox_snapshot_rebuild_total",
    Metric.RECORDS_REMOVED: "agentcube_snapshot_artifact_record_removed_total",
    Metric.PHYSICAL_DELETES: "agentcube_snapshot_physical_delete_total",
}


@pytest.mark.parametrize("metric", Metric)
def test_defect_51_every_step_that_counts_moves_its_series(metric: Metric) -> None:
    registry, labels = CollectorRegistry(), LABELS[metric]
    metrics = SnapshotMetrics(registry, lambda: START)
    metrics.take(Count(metric, tuple(labels.values()), 2.5))
    assert registry.get_sample_value(SERIES[metric], labels) == 2.5


def test_defect_51_an_ordinary_life_counts_with_every_metric() -> None:
    world = make_ready_world("node-a", "node-b")
    counted = set(world.counts)
    world.edit_template("registry.example/picod:2")
    world.run_for(1000)
    counted |= set(world.counts)
    assert {Metric.BUILD_TASKS, Metric.BUILD_SECONDS} <= {one[0] for one in counted}
    assert {one[0] for one in counted} == set(Metric)
