"""Count what the engine does, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# From 1 ms, where KVM forks are, to a cold boot under the emulator.
_BUCKETS_S: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    *(0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
_STAGES: Final = ("spawn", "load", "resume", "inject", "guest_ready", "total")


class _Plain(NamedTuple):
    """A counter of events of one kind. labels: members of the event, and the series' own labels."""

    series: str
    text: str
    labels: tuple[str, ...] = ()


_PLAIN: Final = {
    "session.ended": _Plain(
        "snapstart_sessions_ended", "Sessions that ended, by reason.", ("reason",)
    ),
    "session.failed": _Plain(
        "snapstart_session_failures",
        "Sessions that never became ready, by error code, or cancelled.",
        ("code",),
    ),
    "template.loaded": _Plain(
        "snapstart_templates_loaded",
        "Templates read back into memory, by where they were read from (disk, cache).",
        ("source",),
    ),
    "pod.started": _Plain(
        "snapstart_pod_starts",
        "Machines of Pods, by how they started (snapshot, cold), and why a restore was none.",
        ("start", "reason"),
    ),
    "pod.restore": _Plain(
        "agentcube_snapstart_restore",
        "Pods that a sandboxer was to restore, by what it did (restore, cold_start, unknown).",
        ("result", "reason", "node", "runtime_kind"),
    ),
    "pod.stuck": _Plain(
        "snapstart_stuck_pods",
        "Pods that wait, or may, for an injection after a silent cold start, by sign "
        "(gate_closed, not_ready).",
        ("sign",),
    ),
    "pod.replaced": _Plain(
        "snapstart_replaced_pods", "Pods deleted because they waited for an injection."
    ),
    "pager.served": _Plain(
        "snapstart_pager_machines_served",
        "Machines that the page server serves, by how their memory gets there, and why so.",
        ("method", "why"),
    ),
    "pager.machine.failed": _Plain(
        "snapstart_pager_machines_stopped", "Machines that the page server had to stop."
    ),
}

# What the page server counts, by its own names.
_PAGED: Final = {
    "faults": ("faults", "Pages that guests asked for before they were there."),
    "prefetched": ("prefetched_pages", "Pages of working sets, installed unasked."),
    "copied": ("copied_pages", "Pages that came by copying."),
    "shared": ("shared_pages", "Pages of a shared image, mapped without copying."),
    "zeroed": ("zeroed_pages", "Pages of zeros, mapped without memory of their own."),
    "removed": ("removed_pages", "Pages that guests gave back."),
    "stalls": ("stalls", "Faults that took more than 10 ms."),
}


class Metrics:
    """A tracer that counts. The registry is this object's own, so that tests can have many."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._plain = {
            event: self._counter(one.series, one.text, *one.labels) for event, one in _PLAIN.items()
        }
        self._started = self._counter(
            "snapstart_sessions_started",
            "Sessions that became ready, by how their VM started (fork, cold, parked, adopted).",
            "start",
        )
        self._built = self._counter(
            "snapstart_templates_built", "Builds, by outcome (ready, failed).", "outcome"
        )
        self._paged = {
            name: self._counter(f"snapstart_pager_{series}", text)
            for name, (series, text) in _PAGED.items()
        }
        self._working_sets = self._counter(
            "snapstart_working_sets",
            "Working sets made of recordings, by outcome (made, failed).",
            "outcome",
        )
        self._spans_dropped = self._counter(
            "snapstart_trace_spans_dropped",
            "Spans that no collector got, by why (full: the queue, unsent, rejected).",
            "why",
        )
        self._stage = Histogram(
            "snapstart_start_stage_seconds",
            "Seconds to the end of each stage (spawn, load, resume, inject, guest_ready) since the "
            "start, or of all since the request (total); forks and cold starts only.",
            ("mode", "stage"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )

    def step(self, event: str, /, **details: str | int | float) -> None:
        """Count one step; steps that no series is about are ignored."""
        match event:
            case _ if (plain := _PLAIN.get(event)) is not None:
                counter = self._plain[event]
                labels = [str(details[name]) for name in plain.labels]
                (counter.labels(*labels) if labels else counter).inc()
            case "session.ready":
                self._on_ready(details)
            case "pager.counted":
                for name, counter in self._paged.items():
                    counter.inc(float(details[name]))
            case "working_set.made" | "working_set.failed":
                self._working_sets.labels(event.rpartition(".")[2]).inc()
            case "template.ready" | "template.failed":
                self._built.labels(event.rpartition(".")[2]).inc()
            case "trace.dropped":
                self._spans_dropped.labels(str(details["why"])).inc(float(details["spans"]))
            case _:
                pass

    def watch(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Offer a gauge that is read when asked for."""
        Gauge(name, documentation, registry=self.registry).set_function(read)

    def watch_each(
        self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        """Offer a gauge with one label, whose values are read when asked for."""
        self.registry.register(_Each(name, documentation, label, read))

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def _on_ready(self, details: Mapping[str, str | int | float]) -> None:
        start = str(details["start"])
        self._started.labels(start).inc()
        if start not in ("fork", "cold"):
            return  # neither a parked nor an adopted VM was started for this request
        for stage in _STAGES:
            value = details.get(f"{stage}_ms")
            if value is not None:
                self._stage.labels(start, stage).observe(float(value) / 1000)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)


class _Each(Collector):
    """Reads all values of a label at once."""

    def __init__(
        self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        self._described = (name, documentation)
        self._label = label
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        family = GaugeMetricFamily(*self._described, labels=[self._label])
        for value, number in self._read().items():
            family.add_metric([value], number)
        yield family
