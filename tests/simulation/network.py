"""Everything that a program asks of another one, as operations that wait for their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol

from controlplane.errors import ConflictError, RejectedError, UnavailableError
from controlplane.kube.api import WatchEvent, WatchKind
from tests.fakes.kube_cluster import FakeCluster, FakeWatch

from .loop import Process, SimLoop

_STORE: Final = "store"
_KUBE: Final = "kube"
_DRIVER: Final = "driver"


@dataclass(eq=False)
class Op:
    """One thing asked for. peer: who is asked. is_write: it may be lost, refused, done unheard."""

    process: Process
    peer: str
    name: str
    effect: Callable[[], Any]
    future: asyncio.Future[Any]
    is_write: bool = False
    until_s: float = float("inf")


@dataclass
class Weather:
    """What goes wrong, how often. Probabilities are of one operation."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    conflict: float = 0.0
    refused: float = 0.0  # of the creation of a Sandbox or a task: a quota, an admission webhook
    stale_read: float = 0.0
    broken_watch: float = 0.0
    repeated_event: float = 0.0
    away: set[tuple[str, str]] = field(default_factory=set)  # (process name or "*", peer)

    def is_away(self, process: Process, peer: str) -> bool:
        """This process cannot reach this peer."""
        return ("*", peer) in self.away or (process.name, peer) in self.away

    def clear(self) -> None:
        """Fair weather from now on."""
        self.__init__()  # type: ignore[misc]


class Stream:
    """One process's watch; events wait here for their delivery."""

    def __init__(self, process: Process, watch: FakeWatch, changed: Callable[[Stream], None]):
        self.process = process
        self.watch = watch
        self.waiter: asyncio.Future[list[WatchEvent]] | None = None
        self.buffer: list[WatchEvent] = []
        self._changed = changed
        watch.on_change = lambda: changed(self)

    async def next(self) -> list[WatchEvent]:
        """Wait for the next delivery. Raises: what broke the watch."""
        self.waiter = asyncio.get_running_loop().create_future()
        self._changed(self)
        return await self.waiter

    @property
    def is_deliverable(self) -> bool:
        """Somebody waits, something is there, even if only the end."""
        return (
            self.process.is_alive
            and self.waiter is not None
            and not self.waiter.done()
            and bool(self.buffer or self.watch._events or self.watch.is_ended)
        )


class Tracer(Protocol):
    """Where the world writes down what happened."""

    def __call__(self, text: str) -> None:
        """One line."""


class Network:
    """The operations under way, the watches that are open."""

    def __init__(self, loop: SimLoop, random: Random, trace: Tracer) -> None:
        self.loop = loop
        self.random = random
        self.trace = trace
        self.weather = Weather()
        self.ops: list[Op] = []
        self.streams: dict[Stream, None] = {}  # those with something to deliver
        self.open: list[Stream] = []
        self.faults = 0

    def call(
        self,
        process: Process,
        peer: str,
        name: str,
        effect: Callable[[], Any],
        *,
        is_write: bool = False,
    ) -> asyncio.Future[Any]:
        """Ask; the answer comes when the world lets it happen."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self.ops.append(Op(process, peer, name, effect, future, is_write))
        return future

    def changed(self, stream: Stream) -> None:
        """A watch may have become deliverable."""
        if stream.is_deliverable:
            self.streams[stream] = None

    def opened(self, stream: Stream) -> Stream:
        """A watch was opened."""
        self.open = [one for one in self.open if not one.watch.is_ended]
        self.open.append(stream)
        return stream

    def break_watches(self, cluster: FakeCluster, error: Exception | None) -> None:
        """End every program's watches, with what they have not got yet."""
        self.faults += 1
        broken, self.open = self.open, []
        for stream in broken:
            cluster.close_watch(stream.watch)
            stream.watch.end(error)

    def crash(self, process: Process, *, late_s: float) -> None:
        """End a process. What it asked for and is on its way may still happen, for so long."""
        process.is_alive = False
        kept = []
        for op in self.ops:
            if op.process is process:
                if not op.is_write or self.random.random() < 0.4:
                    continue
                if op.peer == _DRIVER:  # it lives and dies with its caller
                    self._finish_unheard(op)
                    continue
                op.until_s = self.loop.now_s + late_s
            kept.append(op)
        self.ops = kept

    def _finish_unheard(self, op: Op) -> None:
        with suppress(Exception):
            op.effect()
        self.trace(f"{op.process} {op.name}: done, nobody heard")

    def perform(self, op: Op) -> None:
        """Let one operation happen, or go wrong."""
        self.ops.remove(op)
        is_heard = op.process.is_alive and not op.future.cancelled()
        if not is_heard and (self.random.random() < 0.5 or self.loop.now_s > op.until_s):
            self.trace(f"{op.process} {op.name}: never arrived")
            return
        try:
            result, error = self._attempt(op), None
        except Exception as exc:
            result, error = None, exc
        outcome = type(error).__name__ if error else "ok"
        self.trace(f"{op.process} {op.name}: {outcome}{'' if is_heard else ' (unheard)'}")
        if not is_heard:
            return
        if error is not None:
            op.future.set_exception(error)
        else:
            op.future.set_result(result)

    def _attempt(self, op: Op) -> Any:
        weather, dice = self.weather, self.random.random()
        if weather.is_away(op.process, op.peer):
            self.faults += 1
            raise UnavailableError(f"{op.name}: no connection")
        if op.peer not in (_KUBE, _STORE):
            return op.effect()
        if dice < weather.lost_request:
            self.faults += 1
            raise UnavailableError(f"{op.name}: connection refused")
        dice -= weather.lost_request
        if op.is_write and dice < weather.conflict:
            self.faults += 1
            raise ConflictError(f"{op.name}: somebody else wrote")
        dice -= weather.conflict
        is_made = op.name.startswith(("create sandboxes", "create sandboxsnapshottasks"))
        if is_made and self.random.random() < weather.refused:
            self.faults += 1
            raise RejectedError(f"{op.name}: exceeded quota")
        result = op.effect()
        if 0 <= dice < weather.lost_reply:
            self.faults += 1
            raise UnavailableError(f"{op.name}: connection reset")
        return result

    def deliver(self, stream: Stream) -> None:
        """Give a watch some of what waits for it, or break it."""
        self.streams.pop(stream, None)
        if not stream.is_deliverable or stream.waiter is None:
            return
        weather = self.weather
        if weather.is_away(stream.process, _KUBE) or self.random.random() < weather.broken_watch:
            self.faults += 1
            self._fail(stream, UnavailableError("watch: connection reset"))
            return
        try:
            stream.buffer += stream.watch.poll()
        except Exception as exc:
            self._fail(stream, exc)
            return
        count = len(stream.buffer)
        if count > 1 and self.random.random() < 0.5:
            count = self.random.randint(1, count)
        batch, stream.buffer = stream.buffer[:count], stream.buffer[count:]
        if batch and self.random.random() < weather.repeated_event:
            self.faults += 1
            batch.append(batch[-1])
        self.trace(f"{stream.process} sees {_told(batch)}")
        stream.waiter.set_result(batch)

    def _fail(self, stream: Stream, error: Exception) -> None:
        self.trace(f"{stream.process} watch of {stream.watch.resource}: {type(error).__name__}")
        assert stream.waiter is not None
        stream.waiter.set_exception(error)


def _told(batch: list[WatchEvent]) -> str:
    if not batch:
        return "the end of a watch"
    return ", ".join(
        f"{event.kind.value.lower()} {event.body.get('kind')} {event.body['metadata'].get('name')}"
        f"@{event.body['metadata'].get('resourceVersion')}"
        for event in batch
        if event.kind is not WatchKind.BOOKMARK
    )
