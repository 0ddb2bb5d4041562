"""Decide which Events are written for what happened.

Nothing here waits or talks: `EventLog` holds what is still to be written, bounded. The same report
within ten minutes raises a count instead of making another object, and an object that reports all
the time is held to a rate, so that etcd is spared.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from controlplane.api.meta import JsonObject
from controlplane.kube.cache import Named
from controlplane.kube.resource import Resource

_MESSAGE_MAX: Final = 1024  # what the API server accepts
_NAME_MAX: Final = 200


@dataclass(frozen=True)
class ObjectRef:
    """What an Event is about."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


def reference(resource: Resource, found: Named) -> ObjectRef:
    """A reference to an object as read."""
    meta = found.metadata
    return ObjectRef(
        resource.api_version,
        resource.kind,
        meta.name,
        meta.namespace,
        meta.uid,
        meta.resource_version,
    )


@dataclass(frozen=True)
class EventPolicy:
    """repeat_s: the same report within this counts up. burst: reports of one object at once;
    refill_s: then one in this time. pending_max, memory_max: what is kept."""

    repeat_s: float = 600.0
    burst: int = 25
    refill_s: float = 300.0
    pending_max: int = 1000
    memory_max: int = 4096


@dataclass(frozen=True)
class Report:
    """One report and how often it came. is_stored: there is an Event to count up."""

    about: ObjectRef
    type: str
    reason: str
    message: str
    first_at: datetime
    last_at: datetime
    count: int = 1
    is_stored: bool = False

    @property
    def namespace(self) -> str:
        """Where its Event lives; those of cluster-scoped objects in `default`."""
        return self.about.namespace or "default"

    @property
    def name(self) -> str:
        """Its Event's name; the same whenever it is written again."""
        text = "\0".join(
            (self.about.uid, self.type, self.reason, self.message, self.first_at.isoformat())
        )
        return f"{self.about.name[:_NAME_MAX]}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


Key = tuple[ObjectRef, str, str, str]


@dataclass(frozen=True)
class _Bucket:
    tokens: float
    at: datetime


class EventLog:
    """What happened and is still to be written; in order, repeated ones merged."""

    def __init__(self, policy: EventPolicy) -> None:
        self._policy = policy
        self._reports: OrderedDict[Key, Report] = OrderedDict()
        self._buckets: OrderedDict[ObjectRef, _Bucket] = OrderedDict()
        self._pending: OrderedDict[Key, None] = OrderedDict()
        self.dropped = 0

    def record(
        self, about: ObjectRef, type_: str, reason: str, message: str, now: datetime
    ) -> bool:
        """Take in a report. Returns: False if it was dropped, which is counted."""
        same = replace(about, resource_version="")
        key = (same, type_, reason, message[:_MESSAGE_MAX])
        is_pending = key in self._pending
        if not is_pending and len(self._pending) >= self._policy.pending_max:
            self.dropped += 1
            return False
        if not self._spend(same, now):
            self.dropped += 1
            return False
        before = self._reports.pop(key, None)
        if before is not None and now - before.last_at <= timedelta(seconds=self._policy.repeat_s):
            report = replace(before, count=before.count + 1, last_at=now)
        else:
            report = Report(about, type_, reason, key[3], now, now)
        self._reports[key] = report
        self._pending[key] = None
        self._trim()
        return True

    def next(self) -> tuple[Key, Report] | None:
        """The next to write, which is then no longer pending."""
        if not self._pending:
            return None
        key, _ = self._pending.popitem(last=False)
        return key, self._reports[key]

    def stored(self, key: Key, *, is_stored: bool = True) -> None:
        """There is an Event of it now; or, on False, no longer: it is pending again."""
        report = self._reports.get(key)
        if report is None:
            return
        self._reports[key] = replace(report, is_stored=is_stored)
        if not is_stored:
            self._pending[key] = None
            self._pending.move_to_end(key, last=False)

    def _spend(self, about: ObjectRef, now: datetime) -> bool:
        policy = self._policy
        bucket = self._buckets.pop(about, _Bucket(policy.burst, now))
        elapsed_s = max(0.0, (now - bucket.at).total_seconds())
        tokens = min(policy.burst, bucket.tokens + elapsed_s / policy.refill_s)
        self._buckets[about] = _Bucket(tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1

    def _trim(self) -> None:
        while len(self._buckets) > self._policy.memory_max:
            self._buckets.popitem(last=False)
        if len(self._reports) > self._policy.memory_max:
            oldest = next((key for key in self._reports if key not in self._pending), None)
            if oldest is not None:
                del self._reports[oldest]


def event_body(report: Report, component: str, instance: str) -> JsonObject:
    """A core/v1 Event. component: the program. instance: its Pod or node."""
    about = {
        "apiVersion": report.about.api_version,
        "kind": report.about.kind,
        "name": report.about.name,
        "namespace": report.about.namespace,
        "uid": report.about.uid,
        "resourceVersion": report.about.resource_version,
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": report.name, "namespace": report.namespace},
        "involvedObject": {name: value for name, value in about.items() if value},
        "type": report.type,
        "reason": report.reason,
        "message": report.message,
        "firstTimestamp": _timestamp(report.first_at),
        "source": {"component": component, "host": instance},
        "reportingComponent": component,
        "reportingInstance": instance,
        **event_patch(report),
    }


def event_patch(report: Report) -> JsonObject:
    """What a repetition changes."""
    return {"count": report.count, "lastTimestamp": _timestamp(report.last_at)}


def _timestamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
