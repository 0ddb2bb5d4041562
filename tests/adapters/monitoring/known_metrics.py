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
    metrics = GaugesOnly()
    watch_engine(metrics, None)  # type: ignore[arg-type]
    watch_pager(metrics, None)
    watch_health(metrics, Health())
    return list(metrics.registry.collect())


def controlplane_families() -> list[Metric]:
    """The same of the control plane."""
    registry = CollectorRegistry()
    ProgramMetrics(registry)
    HealthMetrics(ControlPlaneHealth(), registry)
    SnapshotMetrics(registry, lambda: datetime.now(UTC))
    SessionMetrics(registry)
    CountedStore(FakeStore(), registry)
    return list(registry.collect())


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
