"""Name every series that the two programs offer, as their registries have them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from agentd.health import Health
from agentd.http.observed import watch_engine, watch_health, watch_pager
from agentd.metrics import Metrics
from controlplane.health import Health as ControlPlaneHealth
from controlplane.metrics import HealthMetrics, ProgramMetrics
from controlplane.sessions.metrics import SessionMetrics
from controlplane.snapshots.metrics import SnapshotMetrics
from controlplane.snapshots.store_errors import CountedStore
from tests.fakes.store import FakeStore


class GaugesOnly(Metrics):
    """Offers gauges that nobody can read, of an engine that is not there."""

    def watch(self, name: str, documentation: str, read: object) -> None:
        super().watch(name, documentation, lambda: 0.0)


def agentd_families() -> list[Metric]:
    """What GET /metrics of agentd has, whatever happened."""
    return list(_agentd_registry().collect())


def _agentd_registry() -> CollectorRegistry:
    metrics = GaugesOnly()
    watch_engine(metrics, None)  # type: ignore[arg-type]
    watch_pager(metrics, None)
    watch_health(metrics, Health())
    return metrics.registry


def controlplane_families() -> list[Metric]:
    """The same of the control plane."""
    return list(_controlplane_registry().collect())


def _controlplane_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProgramMetrics(registry)
    HealthMetrics(ControlPlaneHealth(), registry)
    SnapshotMetrics(registry, lambda: datetime.now(UTC))
    SessionMetrics(registry)
    CountedStore(FakeStore(), registry)
    return registry


def series_of(family: Metric) -> Iterator[str]:
    """The names that a query can use."""
    match family.type:
        case "counter":
            yield f"{family.name}_total"
        case "histogram":
            yield from (f"{family.name}_{part}" for part in ("bucket", "count", "sum"))
        case _:
            yield family.name


def all_series() -> set[str]:
    """Of both programs."""
    families = agentd_families() + controlplane_families()
    return {name for family in families for name in series_of(family)}


def labels_of(name: str) -> tuple[str, ...]:
    """Of one family, which says them only where it has samples."""
    if name in _OWN:
        return _OWN[name]
    for registry in (_agentd_registry(), _controlplane_registry()):
        for collector, names in registry._collector_to_names.items():
            if name in names or f"{name}_total" in names:
                return tuple(getattr(collector, "_labelnames"))  # noqa: B009 - not public
    raise KeyError(name)


# Of collectors of our own, which make families when they are asked.
_OWN: dict[str, tuple[str, ...]] = {
    "snapstart_part_ready": ("part",),
    "agentcube_snapstart_part_ready": ("part",),
    "agentcube_sandbox_snapshot_target_node_count": ("namespace", "snapshot"),
    "agentcube_sandbox_snapshot_ready_node_count": ("namespace", "snapshot"),
    "agentcube_sandbox_snapshot_artifacts": ("phase",),
    "agentcube_snapshot_physical_artifacts_pending_deletion": (),
    "agentcube_snapshot_oldest_retired_artifact_age_seconds": (),
}
