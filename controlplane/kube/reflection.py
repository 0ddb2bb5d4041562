"""Decide what an informer does next: list, check, watch, wait.

The informer's state without its I/O, so that a simulation can drive it step by step:

    LIST  --listed-->  WATCH  --ended-->  WATCH
      ^                  |  \\--failed-->  CHECK --checked--> WATCH
      +----expired-------+                  |
      +------the server's version is older--+

A check asks for the current version only. A server that came back with an older state (a restored
etcd) would otherwise keep a watch open and silent until its versions have caught up. Whatever else
may have been missed is found by a whole list once in a while.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

from controlplane.errors import (
    ConflictError,
    ControlPlaneError,
    ExpiredError,
    PeerError,
    UnavailableError,
)
from controlplane.kube.api import Page, WatchEvent, WatchKind
from controlplane.kube.backoff import Backoff
from controlplane.kube.cache import Changed, Named, ObjectCache, key_of

T = TypeVar("T", bound=Named)


class Step(enum.StrEnum):
    """What to ask the server next."""

    LIST = "list"
    CHECK = "check"
    WATCH = "watch"


@dataclass(frozen=True)
class FollowPolicy:
    """relist_s: a whole list at least so often. brief_s: a watch that ends sooner, with nothing
    seen, counts as a failure, so that a broken proxy is not asked in a loop."""

    backoff: Backoff = field(default_factory=Backoff)
    relist_s: float = 3600.0
    brief_s: float = 1.0


class Reflection(Generic[T]):
    """One informer's state. Times are seconds of a monotonic clock, handed in."""

    def __init__(self, cache: ObjectCache[T], random: Random, policy: FollowPolicy) -> None:
        self.cache = cache
        self._random = random
        self._policy = policy
        self._version = ""
        self._must_check = False
        self._failures = 0
        self._relist_at = 0.0
        self._has_seen = False

    @property
    def version(self) -> str:
        """The version that has been seen; empty: none that can be gone on from."""
        return self._version

    def next_step(self, now_s: float) -> Step:
        """What to ask now."""
        if not self._version or now_s >= self._relist_at:
            return Step.LIST
        return Step.CHECK if self._must_check else Step.WATCH

    def listed(self, pages: list[Page], now_s: float) -> tuple[Changed[T], ...]:
        """All pages came. The version is the first page's, on which the others continue."""
        changes = self.cache.replace(item for page in pages for item in page.items)
        self._version = pages[0].resource_version
        self._must_check = False
        self._relist_at = now_s + self._policy.relist_s * (1 + 0.2 * self._random.random())
        return changes

    def checked(self, version: str) -> None:
        """The server's version came."""
        self._must_check = False
        if _is_older(version, self._version):
            self._version = ""

    def seen(self, event: WatchEvent) -> tuple[Changed[T], ...]:
        """An event came. Raises: PeerError, ExpiredError; hand them to `failed`."""
        version = (event.body.get("metadata") or {}).get("resourceVersion", "")
        if not version:
            raise PeerError(f"watch: {event.kind} event without a version")
        if _is_older(version, self._version):
            raise ExpiredError(f"watch: version {version} follows {self._version}")
        changes = self._take(event)
        self._version, self._has_seen, self._failures = version, True, 0
        return changes

    def _take(self, event: WatchEvent) -> tuple[Changed[T], ...]:
        if event.kind is WatchKind.BOOKMARK:
            return ()
        if event.kind is WatchKind.DELETED:
            return self.cache.drop(key_of(event.body))
        return self.cache.put(event.body)

    def ended(self, lasted_s: float) -> float:
        """The server ended a watch. Returns: seconds to wait."""
        has_seen, self._has_seen = self._has_seen, False
        if has_seen or lasted_s >= self._policy.brief_s:
            self._failures = 0
            return 0.0
        return self._delay_s()

    def failed(self, error: ControlPlaneError, lasted_s: float) -> float:
        """A step failed after so long. Returns: seconds to wait."""
        self._has_seen = False
        if lasted_s >= self._policy.backoff.cap_s:
            self._failures = 0
        if isinstance(error, UnavailableError | ConflictError):
            self._must_check = True
            return max(self._delay_s(), getattr(error, "delay_s", 0.0))
        self._version = ""
        return self._delay_s()

    def _delay_s(self) -> float:
        self._failures += 1
        return self._policy.backoff.delay_s(self._failures, self._random)


def _is_older(version: str, than: str) -> bool:
    """Versions are comparable integers in all storage that there is; others are not judged."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)
