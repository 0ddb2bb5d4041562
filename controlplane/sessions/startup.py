"""Measure how long session Sandboxes take to become Ready."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from controlplane.api import names
from controlplane.api.core import Sandbox
from controlplane.sessions.metrics import SessionMetrics, StartPath
from controlplane.sessions.session import is_build, is_pool_made

# An object's creation time is cut to seconds; within this it says no more than our own clock.
_STAMP_S = 1.5


def path_of(sandbox: Sandbox) -> StartPath:
    """Which way it comes up. A pool's Sandbox is made ahead of its session."""
    if is_pool_made(sandbox):
        return StartPath.WARM_POOL
    annotations = sandbox.spec.pod_template.metadata.annotations or {}
    return StartPath.SNAPSHOT if annotations.get(names.SNAPSHOT_KEY) else StartPath.COLD


class StartupTimes:
    """Fed by an informer of Sandboxes. clock: the time now, with a zone.

    What was created before this object is never measured: nobody saw it begin. "snapshot" counts
    the Sandboxes that were told to restore; whether each did is known on its node alone.
    """

    def __init__(self, metrics: SessionMetrics, clock: Callable[[], datetime]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._begun = clock()
        self._waiting: dict[str, tuple[datetime, StartPath]] = {}
        self._measured: set[str] = set()

    def changed(self, sandbox: Sandbox) -> None:
        """A Sandbox was added or has changed."""
        uid, created = sandbox.metadata.uid, sandbox.metadata.creation_timestamp
        if created is None or uid in self._measured or is_build(sandbox):
            return
        if created <= self._begun.replace(microsecond=0):
            return
        since, path = self._waiting.setdefault(uid, (self._start(created), path_of(sandbox)))
        if sandbox.is_ready:
            del self._waiting[uid]
            self._measured.add(uid)
            self._metrics.started(path, max(0.0, (self._clock() - since).total_seconds()))

    def gone(self, uid: str) -> None:
        """A Sandbox was deleted; repeatable."""
        self._waiting.pop(uid, None)
        self._measured.discard(uid)

    def _start(self, created: datetime) -> datetime:
        now = self._clock()
        return now if (now - created).total_seconds() <= _STAMP_S else created
