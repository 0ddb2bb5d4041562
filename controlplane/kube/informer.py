"""Follow the objects of one kind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Final, Generic, TypeVar

import structlog

from controlplane.errors import ControlPlaneError, InvariantError, PeerError
from controlplane.kube.api import KubeApi, Page, WatchEvent
from controlplane.kube.cache import Changed, Named, ObjectCache, Undecodable
from controlplane.kube.reflection import FollowPolicy, Reflection, Step
from controlplane.kube.resource import Resource

T = TypeVar("T", bound=Named)

# A valid name that nothing has; the list is empty and carries the server's version.
_NOBODY: Final = "metadata.name=snapstart-nothing-has-this-name"
_PAGES_MAX: Final = 10_000

_log = structlog.get_logger()


class Informer(Generic[T]):
    """Lists, watches, keeps copies, calls handlers; survives restarts of the API server.

    Args: type_: objects that do not fit it are reported to `on_undecodable`, once for each object
    and reason, and are in `undecodable`; the copy from before stays. indexers: see ObjectCache.
    Handlers run in the informer's task, must not block, and see every change in order: at the first
    list, everything as new; after a gap, the difference. What it hands out is shared: never change
    anything within it.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        type_: type[T],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        indexers: Mapping[str, Callable[[T], Iterable[str]]] | None = None,
        on_undecodable: Callable[[Undecodable], None] | None = None,
        policy: FollowPolicy | None = None,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self.resource = resource
        self._scope = {"namespace": namespace, "labels": labels}
        self._fields = fields
        self._cache = ObjectCache(type_, indexers)
        self._state = Reflection(self._cache, random or Random(), policy or FollowPolicy())
        self._on_undecodable = on_undecodable or _log_undecodable
        self._clock = clock
        self._handlers: list[Callable[[T | None, T | None], None]] = []
        self._reported: dict[tuple[str, str], Undecodable] = {}
        self._synced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.last_error: ControlPlaneError | None = None  # None: the last thing asked worked

    # What is known

    @property
    def has_synced(self) -> bool:
        """The first list has come, and handlers have seen it."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Wait for the first list; forever, if it never comes."""
        await self._synced.wait()

    def get(self, name: str, namespace: str = "") -> T | None:
        """One object, as last seen."""
        return self._cache.get(name, namespace)

    def all(self) -> tuple[T, ...]:
        """All objects, as last seen."""
        return self._cache.all()

    def by_index(self, index: str, value: str) -> tuple[T, ...]:
        """As ObjectCache.by_index."""
        return self._cache.by_index(index, value)

    @property
    def undecodable(self) -> tuple[Undecodable, ...]:
        """Objects whose latest version does not fit the type."""
        return tuple(self._cache.undecodable.values())

    # Its life

    def add_handler(self, handler: Callable[[T | None, T | None], None]) -> None:
        """Call it with (old, new) on each change; before `start`."""
        if self._task is not None:
            raise InvariantError(f"informer of {self.resource}: a handler comes after the start")
        self._handlers.append(handler)

    def start(self) -> None:
        """Begin; `stop` ends it."""
        if self._task is not None:
            raise InvariantError(f"informer of {self.resource} is started twice")
        self._task = asyncio.create_task(self._run(), name=f"informer:{self.resource}")

    async def stop(self) -> None:
        """End. Copies stay readable. Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            began_s = self._clock()
            try:
                delay_s = await self._step(began_s)
                self.last_error = None
            except Exception as exc:
                delay_s = self._failed(exc, self._clock() - began_s)
            await asyncio.sleep(delay_s)

    async def _step(self, now_s: float) -> float:
        step = self._state.next_step(now_s)
        if step is Step.LIST:
            self._tell(self._state.listed(await self._list(), self._clock()))
            self._synced.set()
            return 0.0
        if step is Step.CHECK:
            fields = ",".join(filter(None, (self._fields, _NOBODY)))
            page = await self._api.list(self.resource, fields=fields, **self._scope)
            self._state.checked(page.resource_version)
            return 0.0
        await self._follow()
        return self._state.ended(self._clock() - now_s)

    async def _list(self) -> list[Page]:
        pages = [await self._api.list(self.resource, fields=self._fields, **self._scope)]
        while pages[-1].next_page:
            if len(pages) >= _PAGES_MAX:
                raise PeerError(f"list {self.resource}: more than {_PAGES_MAX} pages")
            token = pages[-1].next_page
            pages.append(
                await self._api.list(self.resource, fields=self._fields, page=token, **self._scope)
            )
        return pages

    async def _follow(self) -> None:
        watch = self._api.watch(
            self.resource,
            resource_version=self._state.version,
            fields=self._fields,
            **self._scope,
        )
        async with _closing(watch):
            async for event in watch:
                self.last_error = None
                self._tell(self._state.seen(event))

    def _failed(self, exc: Exception, lasted_s: float) -> float:
        error = exc if isinstance(exc, ControlPlaneError) else InvariantError(repr(exc))
        delay_s = self._state.failed(error, lasted_s)
        is_news = self.last_error is None
        self.last_error = error
        log = _log.warning if is_news else _log.debug
        log("informer.failed", resource=str(self.resource), error=str(error), retry_s=delay_s)
        return delay_s

    def _tell(self, changes: tuple[Changed[T], ...]) -> None:
        self._report_undecodable()
        for change in changes:
            for handler in self._handlers:
                try:
                    handler(change.old, change.new)
                except Exception:
                    _log.exception("informer.handler_failed", resource=str(self.resource))

    def _report_undecodable(self) -> None:
        found = self._cache.undecodable
        if not found and not self._reported:
            return
        for key, problem in found.items():
            if self._reported.get(key) != problem:
                self._on_undecodable(problem)
        self._reported = dict(found)


@asynccontextmanager
async def _closing(watch: AsyncIterator[WatchEvent]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        close = getattr(watch, "aclose", None)
        if close is not None:
            await close()


def _log_undecodable(problem: Undecodable) -> None:
    _log.warning(
        "informer.undecodable",
        namespace=problem.key[0],
        name=problem.key[1],
        uid=problem.uid,
        error=problem.message,
    )
