"""Show what the snapshot controller does, for Prometheus."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from controlplane.api.manifest import Manifest
from controlplane.api.types import ArtifactPhase, SandboxSnapshotStatus
from controlplane.snapshots.draft import artifacts_of
from controlplane.snapshots.steps import Count, Metric

_BUILD_BUCKETS_S = (5, 15, 30, 60, 120, 300, 600)

Key = tuple[str, str]  # namespace, name


@dataclass(frozen=True)
class _Picture:
    target: int
    ready: int
    phases: Tally[ArtifactPhase]
    retired: int
    oldest_retired: datetime | None


class SnapshotMetrics:
    """registry: where the series are shown; one object for each registry. now: UTC."""

    def __init__(self, registry: CollectorRegistry, now: Callable[[], datetime]) -> None:
        self._pictures = _Pictures(now)
        registry.register(self._pictures)
        self._build_seconds = Histogram(
            "agentcube_sandbox_snapshot_build_duration_seconds",
            "Seconds from the record of a node's build to its Ready artifact.",
            ("provider", "mode"),
            buckets=_BUILD_BUCKETS_S,
            registry=registry,
        )
        self._counters = {
            Metric.BUILD_TASKS: Counter(
                "agentcube_snapshot_build_task",
                "Builds ordered (Creating), done (Ready), not done (Failed).",
                ("phase",),
                registry=registry,
            ),
            Metric.REBUILDS: Counter(
                "agentcube_sandbox_snapshot_rebuild",
                "Sets begun after the first one.",
                ("reason",),
                registry=registry,
            ),
            Metric.RECORDS_REMOVED: Counter(
                "agentcube_snapshot_artifact_record_removed",
                "Artifacts that left a manifest's sets.",
                ("reason",),
                registry=registry,
            ),
            Metric.PHYSICAL_DELETES: Counter(
                "agentcube_snapshot_physical_delete",
                "Retired artifacts by what became of them (deleted, failed, node_removed).",
                ("result",),
                registry=registry,
            ),
        }

    def take(self, count: Count) -> None:
        """Perform a step."""
        if count.metric is Metric.BUILD_SECONDS:
            self._build_seconds.labels(*count.labels).observe(count.amount)
        else:
            self._counters[count.metric].labels(*count.labels).inc(count.amount)

    def show(self, key: Key, status: SandboxSnapshotStatus | None, manifest: Manifest) -> None:
        """A snapshot as it is now."""
        self._pictures.known[key] = _picture(status, manifest)

    def hide(self, key: Key) -> None:
        """A snapshot is gone, or somebody else leads; repeatable."""
        self._pictures.known.pop(key, None)

    def hide_all(self) -> None:
        """Somebody else leads."""
        self._pictures.known.clear()


class _Pictures(Collector):
    """Gauges, summed up when they are asked for."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.known: dict[Key, _Picture] = {}
        self._now = now

    def collect(self) -> Iterable[Family]:
        """See Collector."""
        yield from self._node_counts()
        yield self._artifacts()
        yield from self._retired()

    def _node_counts(self) -> Iterable[Family]:
        labels = ("namespace", "snapshot")
        target = GaugeMetricFamily(
            "agentcube_sandbox_snapshot_target_node_count", "Nodes to be covered.", labels=labels
        )
        ready = GaugeMetricFamily(
            "agentcube_sandbox_snapshot_ready_node_count",
            "Nodes with a Ready artifact of the active version.",
            labels=labels,
        )
        for key, picture in self.known.items():
            target.add_metric(key, picture.target)
            ready.add_metric(key, picture.ready)
        return target, ready

    def _artifacts(self) -> Family:
        family = GaugeMetricFamily(
            "agentcube_sandbox_snapshot_artifacts",
            "Artifacts of active and pending versions.",
            labels=("phase",),
        )
        total: Tally[ArtifactPhase] = Tally()
        for picture in self.known.values():
            total.update(picture.phases)
        for phase in ArtifactPhase:
            family.add_metric((phase.value,), total[phase])
        return family

    def _retired(self) -> Iterable[Family]:
        pictures = self.known.values()
        pending = GaugeMetricFamily(
            "agentcube_snapshot_physical_artifacts_pending_deletion",
            "Retired artifacts that still are on their nodes.",
            value=sum(picture.retired for picture in pictures),
        )
        oldest = min((p.oldest_retired for p in pictures if p.oldest_retired), default=None)
        age_s = (self._now() - oldest).total_seconds() if oldest else 0.0
        age = GaugeMetricFamily(
            "agentcube_snapshot_oldest_retired_artifact_age_seconds",
            "Age of the oldest of them since it was retired; 0 if there is none.",
            value=max(age_s, 0.0),
        )
        return pending, age


def _picture(status: SandboxSnapshotStatus | None, manifest: Manifest) -> _Picture:
    artifacts = (*artifacts_of(manifest.active), *artifacts_of(manifest.pending))
    retired = manifest.retired_sets or ()
    times = [one.retired_at for one in retired if one.retired_at]
    return _Picture(
        target=status.target_node_count if status else 0,
        ready=status.ready_node_count if status else 0,
        phases=Tally(artifact.phase for artifact in artifacts),
        retired=sum(len(one.node_names or ()) for one in retired),
        oldest_retired=min(times, default=None),
    )
