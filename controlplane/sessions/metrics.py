"""Count how sessions start, for Prometheus."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from controlplane.api.types import SnapshotMode
from controlplane.sessions.decision import Decision, StartReason

# From a fork under KVM to a cold start that pulls an image.
_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
_LOOKUP_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)


class StartPath(enum.StrEnum):
    """How a session came up."""

    COLD = "cold"
    SNAPSHOT = "snapshot"
    WARM_POOL = "sandbox_warmpool"


class BadReview(enum.StrEnum):
    """Why an admission request was let pass unread, or was decided without a lookup."""

    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    DEFECT = "defect"


class SessionMetrics:
    """registry: where the series are shown; one object for each registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._intents = Counter(
            "agentcube_snapshot_restore_intent",
            "Decisions about new sessions; an intent is not yet a restore.",
            ("mode", "result", "reason"),
            registry=registry,
        )
        self._fallbacks = Counter(
            "agentcube_snapstart_fallback",
            "Sessions that start cold although a snapshot is meant for them.",
            ("reason", "runtime_kind"),
            registry=registry,
        )
        self._lookup = Histogram(
            "agentcube_snapshot_restore_intent_duration_seconds",
            "Seconds of one decision.",
            registry=registry,
            buckets=_LOOKUP_BUCKETS_S,
        )
        self._startup = Histogram(
            "agentcube_session_startup_duration_seconds",
            "Seconds from a session Sandbox's creation until it is Ready, by path (cold, snapshot, "
            "sandbox_warmpool).",
            ("path",),
            registry=registry,
            buckets=_BUCKETS_S,
        )
        self._bad = Counter(
            "agentcube_snapstart_admission_errors",
            "Admission requests that could not be handled (too_large, malformed, defect); all were "
            "admitted.",
            ("reason",),
            registry=registry,
        )
        self._certificate = Gauge(
            "agentcube_snapstart_webhook_certificate_expiry_timestamp_seconds",
            "When the certificate ends that the webhooks are served with now, since the epoch; NaN "
            "while there is none.",
            registry=registry,
        )
        self._certificate.set(math.nan)

    def watch_certificate(self, read_end: Callable[[], datetime | None]) -> None:
        """Tell, whenever somebody asks, the end of what is served.

        Args: read_end: UTC; None while nothing is served.
        """

        def read() -> float:
            end = read_end()
            return math.nan if end is None else end.timestamp()

        self._certificate.set_function(read)

    def decided(self, decision: Decision, elapsed_s: float) -> None:
        """One decision, made in so many seconds."""
        result = "cold_start" if decision.key is None else "restore_intent"
        self._intents.labels(SnapshotMode.FORK.value, result, decision.reason.value).inc()
        self._lookup.observe(elapsed_s)
        if decision.key is None and decision.reason is not StartReason.NO_SNAPSHOT:
            self._fallbacks.labels(decision.reason.value, "CodeInterpreter").inc()

    def started(self, path: StartPath, elapsed_s: float) -> None:
        """A session is ready."""
        self._startup.labels(path.value).observe(elapsed_s)

    def bad_review(self, reason: BadReview) -> None:
        """An admission request could not be handled as it should."""
        self._bad.labels(reason.value).inc()
