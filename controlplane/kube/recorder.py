"""Write Events without ever holding up, or failing, who reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Final

import structlog

from controlplane.errors import (
    AlreadyExistsError,
    ControlPlaneError,
    NotFoundError,
    UnavailableError,
)
from controlplane.kube.api import KubeApi
from controlplane.kube.backoff import Backoff
from controlplane.kube.events import (
    EventLog,
    EventPolicy,
    Key,
    ObjectRef,
    Report,
    event_body,
    event_patch,
)
from controlplane.kube.resource import EVENTS

_ATTEMPTS: Final = 4
_FLUSH_S: Final = 3.0

_log = structlog.get_logger()


class EventRecorder:
    """Owns the task that writes.

    Args: component: the program's name. instance: its Pod or node. now: UTC.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        component: str,
        instance: str,
        policy: EventPolicy | None = None,
        backoff: Backoff | None = None,
        random: Random | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._component = component
        self._instance = instance
        self._events = EventLog(policy or EventPolicy())
        self._backoff = backoff or Backoff(base_s=1.0)
        self._random = random or Random()
        self._now = now
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._failed = 0

    @property
    def dropped(self) -> int:
        """Reports that were never written: too many, or refused by the server."""
        return self._events.dropped + self._failed

    def normal(self, about: ObjectRef, reason: str, message: str) -> None:
        """Something went as it should."""
        self._record(about, "Normal", reason, message)

    def warning(self, about: ObjectRef, reason: str, message: str) -> None:
        """Somebody may have to look."""
        self._record(about, "Warning", reason, message)

    def start(self) -> None:
        """Begin writing; `stop` ends it."""
        self._task = asyncio.create_task(self._run(), name="events")

    async def stop(self) -> None:
        """Write what is pending, for at most three seconds. Safe to repeat."""
        if self._task is None:
            return
        self._is_stopping = True
        self._news.set()
        try:
            await asyncio.wait([self._task], timeout=_FLUSH_S)
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _record(self, about: ObjectRef, type_: str, reason: str, message: str) -> None:
        if self._events.record(about, type_, reason, message, self._now()):
            self._news.set()
        else:
            _log.debug("event.dropped", kind=about.kind, name=about.name, reason=reason)

    async def _run(self) -> None:
        while True:
            self._news.clear()
            while (found := self._events.next()) is not None:
                await self._write(*found)
            if self._is_stopping:
                return
            await self._news.wait()

    async def _write(self, key: Key, report: Report) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._send(key, report)
                return
            except UnavailableError as exc:
                if attempt == _ATTEMPTS:
                    self._give_up(report, exc)
                    return
                delay_s = self._backoff.delay_s(attempt, self._random)
                await asyncio.sleep(max(delay_s, exc.delay_s))
            except Exception as exc:
                self._give_up(report, exc)
                return

    async def _send(self, key: Key, report: Report) -> None:
        try:
            if report.is_stored:
                await self._api.merge(
                    EVENTS, report.name, event_patch(report), namespace=report.namespace
                )
            else:
                body = event_body(report, self._component, self._instance)
                await self._api.create(EVENTS, body)
            self._events.stored(key)
        except AlreadyExistsError:  # an answer was lost
            self._events.stored(key)
        except NotFoundError:
            if not report.is_stored:
                raise  # the namespace is gone
            self._events.stored(key, is_stored=False)  # its time to live is over: once more

    def _give_up(self, report: Report, exc: Exception) -> None:
        self._failed += 1
        log = _log.debug if isinstance(exc, ControlPlaneError) else _log.error
        log("event.failed", name=report.about.name, reason=report.reason, error=str(exc))
