"""A Kubernetes API server in memory, as programs see it.

`FakeCluster` (kube_cluster.py) holds the objects; `FakeClient` is one program's synchronous
connection to it, with faults and counts of its own; `FakeKube` is the asynchronous face of a
client, a `KubeApi`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from controlplane.errors import UnavailableError
from controlplane.kube.api import WatchEvent
from controlplane.kube.resource import Resource

from .kube_cluster import FakeCluster, FakeWatch
from .kube_face import KubeFace

__all__ = ["FakeClient", "FakeCluster", "FakeKube", "FakeWatch"]

_WRITES: Final = frozenset({"create", "replace", "merge", "apply", "delete"})


@dataclass
class _Fault:
    error: Exception
    count: int
    plural: str
    is_done: bool


class FakeClient:
    """One program's connection: what it asks is counted and can be made to fail."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.counts: Counter[tuple[str, str]] = Counter()  # by (verb, plural)
        self._faults: dict[str, list[_Fault]] = {}
        self._watches: list[FakeWatch] = []
        self._is_partitioned = False

    @property
    def writes(self) -> int:
        """Writes asked for so far, also those that failed or changed nothing."""
        return sum(n for (verb, _), n in self.counts.items() if verb in _WRITES)

    @property
    def reads(self) -> int:
        """Reads asked for so far; a watch is one."""
        return self.counts.total() - self.writes

    def fail_next(
        self,
        op: str,
        error: Exception,
        count: int = 1,
        *,
        resource: Resource | None = None,
        is_done: bool = False,
    ) -> None:
        """Make the next calls fail.

        Args: op: a method's name, or "*". is_done: the call is done, only its answer is lost.
        """
        plural = resource.plural if resource else ""
        self._faults.setdefault(op, []).append(_Fault(error, count, plural, is_done))

    def partition(self) -> None:
        """Cut the connection until `heal`: watches break, calls fail."""
        self._is_partitioned = True
        self.drop_watches(UnavailableError("watch: connection reset"))

    def heal(self) -> None:
        """End the partition."""
        self._is_partitioned = False

    def drop_watches(self, error: Exception | None = None) -> None:
        """End this client's watches, as FakeCluster.drop_watches."""
        dropped, self._watches = self._watches, []
        for watch in dropped:
            self.cluster.close_watch(watch)
            watch.end(error)

    def call(self, op: str, resource: Resource | None, *args: Any, **kwargs: Any) -> Any:
        """Count, fail as told, else do it."""
        plural = resource.plural if resource else ""
        self.counts[op, plural] += 1
        if self._is_partitioned:
            raise UnavailableError(f"{op} {plural}: no connection")
        fault = self._take_fault(op, plural)
        if fault is not None and not fault.is_done:
            raise fault.error
        method = getattr(self.cluster, op)
        result = method(*args, **kwargs) if resource is None else method(resource, *args, **kwargs)
        if fault is not None:
            raise fault.error
        return result

    def watch(self, resource: Resource, **kwargs: Any) -> FakeWatch:
        """As FakeCluster.watch."""
        watch: FakeWatch = self.call("watch", resource, **kwargs)
        self._watches = [*(w for w in self._watches if not w.is_ended), watch]
        return watch

    def _take_fault(self, op: str, plural: str) -> _Fault | None:
        for name in (op, "*"):
            for fault in self._faults.get(name, ()):
                if fault.count > 0 and fault.plural in ("", plural):
                    fault.count -= 1
                    return fault
        return None


class FakeKube(KubeFace):
    """A KubeApi on a client; every call gives way to other tasks once, as a real one does."""

    def __init__(self, cluster: FakeCluster | None = None) -> None:
        self.cluster = cluster or FakeCluster()
        self.client = FakeClient(self.cluster)
        self.fail_next = self.client.fail_next
        self.partition = self.client.partition
        self.heal = self.client.heal
        self.drop_watches = self.client.drop_watches

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Calls by (verb, plural)."""
        return self.client.counts

    @property
    def writes(self) -> int:
        """As FakeClient.writes."""
        return self.client.writes

    async def _call(self, op: str, resource: Resource | None, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return self.client.call(op, resource, *args, **kwargs)

    async def watch(self, resource: Resource, **kwargs: str) -> AsyncIterator[WatchEvent]:
        await asyncio.sleep(0)
        watch = self.client.watch(resource, **kwargs)
        news = asyncio.Event()
        watch.on_change = news.set
        news.set()
        try:
            while True:
                await news.wait()
                news.clear()
                for event in watch.poll():
                    yield event
                if watch.is_ended and not news.is_set():
                    watch.poll()  # raises if a broken connection ended it
                    return
        finally:
            self.cluster.close_watch(watch)
