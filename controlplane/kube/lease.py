"""Hold Leases: as the one leader, or as a sign of life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

import structlog

from controlplane.api.meta import OwnerReference
from controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ControlPlaneError,
    InvariantError,
    NotFoundError,
)
from controlplane.kube.api import KubeApi
from controlplane.kube.leases import (
    LeaseName,
    ObservedLease,
    held_body,
    observe_lease,
    released_body,
)
from controlplane.kube.resource import LEASES

_log = structlog.get_logger()


@dataclass(frozen=True)
class LeaseTiming:
    """duration_s: others may take it this long after the last renewal. deadline_s: we stop working
    this long after the last renewal; the difference is the time for stopping. retry_s: between
    renewals, or attempts."""

    duration_s: int = 15
    deadline_s: float = 10.0
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_s < self.deadline_s < self.duration_s:
            raise InvariantError(f"lease timing: retry < deadline < duration does not hold: {self}")


@dataclass(frozen=True)
class Clocks:
    """monotonic: seconds, for decisions. now: UTC, for what is written."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class _Holder:
    """One program's hold on one Lease; one try at a time."""

    def __init__(
        self,
        api: KubeApi,
        name: LeaseName,
        duration_s: int,
        clocks: Clocks,
        owners: tuple[OwnerReference, ...] = (),
    ) -> None:
        self._api = api
        self._name = name
        self._duration_s = duration_s
        self._clocks = clocks
        self._owners = owners
        self.observed: ObservedLease | None = None
        self.renewed_s: float | None = None  # begin of the last renewal that worked

    async def try_hold(self) -> bool:
        """Acquire or renew. Returns: whether it is ours. Raises: what the API server answers."""
        if not self._is_ours:
            await self._look()
        try:
            return await self._hold_what_is_there()
        except (ConflictError, AlreadyExistsError, NotFoundError):
            await self._look()  # somebody else wrote, or an answer was lost
            return await self._hold_what_is_there()

    async def _hold_what_is_there(self) -> bool:
        began_s, observed = self._clocks.monotonic(), self.observed
        if observed is not None and not observed.is_free_for(self._name.identity, began_s):
            return False
        body = held_body(self._name, observed, self._clocks.now(), self._duration_s, self._owners)
        write = self._api.create if observed is None else self._api.replace
        written = await write(LEASES, body)
        self.observed = observe_lease(None, written, self._clocks.monotonic())
        self.renewed_s = began_s
        return True

    async def release(self) -> None:
        """Give it back, if it is ours."""
        if self._is_ours and self.observed is not None:
            body = released_body(self._name, self.observed, self._clocks.now())
            self.observed = None
            await self._api.replace(LEASES, body)

    @property
    def transitions(self) -> int:
        """How often the Lease has changed hands."""
        return (self.observed.spec.lease_transitions or 0) if self.observed else 0

    @property
    def _is_ours(self) -> bool:
        return self.observed is not None and self.observed.holder == self._name.identity

    async def _look(self) -> None:
        try:
            body = await self._api.get(LEASES, self._name.name, self._name.namespace)
        except NotFoundError:
            self.observed = None
        else:
            self.observed = observe_lease(self.observed, body, self._clocks.monotonic())


class LeaderElection:
    """Lets one program of many do some work.

    Args: name: the identity must be unique to this process.
    """

    def __init__(
        self,
        api: KubeApi,
        name: LeaseName,
        *,
        timing: LeaseTiming | None = None,
        clocks: Clocks | None = None,
        random: Random | None = None,
    ) -> None:
        self._name = name
        self._timing = timing or LeaseTiming()
        self._clocks = clocks or Clocks()
        self._random = random or Random()
        self._holder = _Holder(api, name, self._timing.duration_s, self._clocks)
        self._is_leading = False

    @property
    def is_leader(self) -> bool:
        """We lead, and the last renewal is young enough, also if this process was stopped."""
        renewed_s = self._holder.renewed_s
        return (
            self._is_leading
            and renewed_s is not None
            and self._clocks.monotonic() < renewed_s + self._timing.deadline_s
        )

    async def lead(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Wait to be the leader, then work; afterwards give the Lease back.

        Returns: True if the work ended by itself, False if the leadership was lost, on which the
        work is cancelled. Raises: what the work raises.
        Cancellation: cancels the work, waits for it, gives the Lease back.
        """
        await self._acquire()
        _log.info("leader.elected", lease=self._name.name, identity=self._name.identity)
        self._is_leading = True
        job = asyncio.ensure_future(work())
        keep = asyncio.create_task(self._keep(), name=f"lease:{self._name.name}")
        try:
            await asyncio.wait({job, keep}, return_when=asyncio.FIRST_COMPLETED)
            if job.done():
                job.result()
                return True
            _log.warning("leader.lost", lease=self._name.name, identity=self._name.identity)
            return False
        finally:
            await _uninterrupted(self._stop(job, keep))

    async def _stop(self, job: asyncio.Future[None], keep: asyncio.Future[None]) -> None:
        """End the work while the Lease is still renewed, then give it back."""
        for task in (job, keep):
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is not None:
                _log.error("leader.failed", lease=self._name.name, exc_info=task.exception())
        self._is_leading = False
        await self._release()

    async def _acquire(self) -> None:
        while True:
            if await self._is_held():
                return
            await asyncio.sleep(self._timing.retry_s * (1 + self._random.random()))

    async def _keep(self) -> None:
        """Renew; returns when the Lease is, or for a while was, not ours."""
        term = self._holder.transitions
        while True:
            await asyncio.sleep(self._timing.retry_s)
            is_held = await self._is_held()
            if is_held is False or not self.is_leader or self._holder.transitions != term:
                return

    async def _is_held(self) -> bool | None:
        """None: the API server could not be asked in time."""
        try:
            async with asyncio.timeout(self._timing.deadline_s / 2):
                return await self._holder.try_hold()
        except (ControlPlaneError, TimeoutError) as exc:
            _log.debug("lease.failed", lease=self._name.name, error=str(exc))
            return None

    async def _release(self) -> None:
        """In the time that there is for stopping."""
        try:
            async with asyncio.timeout(self._timing.duration_s - self._timing.deadline_s):
                await self._holder.release()
        except (ControlPlaneError, TimeoutError) as exc:
            _log.debug("lease.release_failed", lease=self._name.name, error=str(exc))


class LeaseHolder:
    """Renews a Lease as a sign of life; never takes one that another identity renews.

    Args: interval_s: between renewals. duration_s: what readers may rely on. owners: of the Lease.
    """

    def __init__(
        self,
        api: KubeApi,
        name: LeaseName,
        *,
        interval_s: float = 10.0,
        duration_s: int = 40,
        owners: tuple[OwnerReference, ...] = (),
        clocks: Clocks | None = None,
        random: Random | None = None,
    ) -> None:
        self._name = name
        self._interval_s = interval_s
        self._duration_s = duration_s
        self._clocks = clocks or Clocks()
        self._random = random or Random()
        self._holder = _Holder(api, name, duration_s, self._clocks, owners)
        self._task: asyncio.Task[None] | None = None
        self.last_error: ControlPlaneError | None = None

    @property
    def is_current(self) -> bool:
        """Readers see it held by us and young enough."""
        renewed_s = self._holder.renewed_s
        return renewed_s is not None and self._clocks.monotonic() < renewed_s + self._duration_s

    def start(self) -> None:
        """Begin; `stop` ends it."""
        self._task = asyncio.create_task(self._run(), name=f"lease:{self._name.name}")

    async def stop(self) -> None:
        """End; the Lease then expires. Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def renew(self) -> None:
        """Renew once. Raises: ConflictError if another identity renews it; as KubeApi."""
        if not await self._holder.try_hold():
            other = self._holder.observed.holder if self._holder.observed else "nobody"
            raise ConflictError(
                f"lease {self._name.namespace}/{self._name.name} is renewed by {other!r}",
                hint="two programs use one identity's Lease: stop one of them",
            )

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self.renew()
                self.last_error = None
            except (ControlPlaneError, TimeoutError) as exc:
                self._note(exc)
            await asyncio.sleep(self._interval_s * (0.9 + 0.2 * self._random.random()))

    def _note(self, exc: Exception) -> None:
        is_news = self.last_error is None
        known = exc if isinstance(exc, ControlPlaneError) else None
        self.last_error = known or ControlPlaneError(f"renew lease {self._name.name}: {exc!r}")
        log = _log.warning if is_news else _log.debug
        log("lease.failed", lease=self._name.name, error=str(self.last_error))


async def _uninterrupted(work: Coroutine[None, None, None]) -> None:
    """Wait for the end of some work, also when cancelled in the meantime."""
    task, is_cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            is_cancelled = True
    await task
    if is_cancelled:
        raise asyncio.CancelledError
