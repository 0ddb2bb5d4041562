"""Tell which nodes have a living agent."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from controlplane.api.core import Lease, LeaseSpec
from controlplane.api.names import AGENT_LEASE_PREFIX


@dataclass(frozen=True)
class _Seen:
    spec: LeaseSpec
    until_s: float


class AgentWatch:
    """Fed by an informer of Leases. A Lease that is renewed wakes nobody, one that ends does.

    Clocks of different machines are not compared: an agent is taken for dead when its Lease has not
    changed for as long as it says, on our clock.
    Args: clock: monotonic seconds. on_change: called with a node whose agent came or went.
    """

    def __init__(self, clock: Callable[[], float], on_change: Callable[[str], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._seen: dict[str, _Seen] = {}
        self._ends: list[tuple[float, str]] = []
        self.living: set[str] = set()

    def changed(self, old: Lease | None, new: Lease | None) -> None:
        """A Lease was added, renewed, given back, deleted."""
        found = new or old
        if found is None or not found.metadata.name.startswith(AGENT_LEASE_PREFIX):
            return
        node = found.metadata.name.removeprefix(AGENT_LEASE_PREFIX)
        if new is None:
            self._seen.pop(node, None)
        else:
            self._take(node, new.spec)
        self._judge(node)

    def expire(self) -> float | None:
        """Judge what has run out by now. Returns: seconds until the next one may; None: none."""
        now_s = self._clock()
        while self._ends and self._ends[0][0] <= now_s:
            self._judge(heapq.heappop(self._ends)[1])
        return self._ends[0][0] - now_s if self._ends else None

    def _take(self, node: str, spec: LeaseSpec) -> None:
        before = self._seen.get(node)
        if before is not None and before.spec == spec:
            return
        until_s = self._clock() + (spec.lease_duration_seconds or 0)
        self._seen[node] = _Seen(spec, until_s)
        heapq.heappush(self._ends, (until_s, node))

    def _judge(self, node: str) -> None:
        seen = self._seen.get(node)
        is_held = seen is not None and bool(seen.spec.holder_identity)
        is_living = is_held and seen is not None and seen.until_s > self._clock()
        if is_living is (node in self.living):
            return
        if is_living:
            self.living.add(node)
        else:
            self.living.discard(node)
        self._on_change(node)
