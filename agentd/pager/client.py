"""Ask the page server over its control socket.

A connection for each call. A page server may be restarted at any moment, and its machines go on:
so a call that finds nobody, or loses its answer, is made again until its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from agentd.pager.failures import (
    absent,
    misspoken,
    no_record,
    not_permitted,
    pager_error,
    unusable,
)
from agentd.pager.link import AnswerTooLongError, LinkLostError, exchange
from agentd.wire import pager as wire
from agentd.wire.pager import About, Listen, Offload, Recording, Refusal, Serving, Stats

# Images are opened and records written by the page server, not its loop's: a restart takes longest.
CALL_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.2
_SHOWN: Final = 200
# Of what is left for a wait: so that the page server's own words about the end arrive in time.
_ANSWER_SHARE: Final = 0.9

T = TypeVar("T")


class Pager(Protocol):
    """The node's page server, as whoever starts machines sees it.

    Every call raises TransientError DEADLINE_EXCEEDED when nobody answers in time, ConfigError when
    the socket is not for this user, PeerError for what is no answer; and, by the page server's own
    word, what `agentd.pager.failures.pager_error` says. Cancelled, it leaves open what was done.
    """

    async def listen(self, order: Listen) -> None:
        """Have the socket of an order made and listened on.

        After any failure, and cancellation: `forget` the machine.
        """

    async def offload(self, order: Offload) -> None:
        """Begin a session with a Cloud Hypervisor; `wait` tells when it has, or gave, its machine.

        After any failure, and cancellation: `forget` the machine.
        """

    async def wait(self, vm_id: str, *, deadline_s: float) -> Serving:
        """Wait until a machine's memory is served: its guest may be resumed.

        Raises: TransientError VMM_FAILED if the machine is not known, as after the page server died
        before it had written it down: kill the monitor, begin anew. PermanentError if it was
        stopped, or its image cannot be used.
        """

    async def end_recording(self, vm_id: str, *, deadline_s: float) -> Recording:
        """Have the record written that the machine's order named.

        Raises: TransientError VMM_FAILED if nothing is recorded: a page server that began anew
        serves the machine on, but the record is lost. PermanentError if the machine is over.
        """

    async def forget(self, vm_id: str) -> None:
        """A machine has ended, or will not come. Idempotent."""

    async def stats(self) -> Stats:
        """What was done for each machine."""


@dataclass
class _Tries:
    """What the tries of one call met so far. is_open: one may have been carried out."""

    is_open: bool = False
    last: str = "it was asked and has not answered"

    def note(self, lost: LinkLostError) -> None:
        self.is_open = self.is_open or lost.was_sent
        self.last = str(lost)


class PagerClient:
    """Implements `Pager` over a control socket. call_s: for calls without a deadline."""

    def __init__(self, path: Path, *, call_s: float = CALL_S) -> None:
        self.path = path
        self._call_s = call_s

    def has_socket(self) -> bool:
        """Whether there is a socket to ask: without one a call waits for it in vain."""
        return self.path.is_socket()

    async def hello(self, *, deadline_s: float | None = None) -> About:
        """Who is there. Raises: as `Pager`."""
        limit_s = self._call_s if deadline_s is None else deadline_s
        return await self._call("greet", wire.Hello(), About, limit_s)

    async def listen(self, order: Listen) -> None:
        """See `Pager`. An order whose answer was lost is given again: an equal one is granted, and
        what a page server left of it that died since is removed.
        """
        what, tries = f"have machine {order.vm!r} served", _Tries()
        async with self._within(what, self._call_s, tries):
            answer = await self._repeat(what, lambda: order, wire.Done, tries)
            if _is_refused(answer, "exists") and tries.is_open:
                if not await self._knows(order.vm, what, tries):
                    _remove_left_socket(Path(order.socket))
                answer = await self._repeat(what, lambda: order, wire.Done, tries)
            _granted(what, answer)

    async def offload(self, order: Offload) -> None:
        """See `Pager`."""
        what, tries = f"begin the offload of machine {order.vm!r}", _Tries()
        async with self._within(what, self._call_s, tries):
            answer = await self._repeat(what, lambda: order, wire.Done, tries)
        # One whose answer was lost is there; after a death there is none, and this began anew.
        if not (_is_refused(answer, "exists") and tries.is_open):
            _granted(what, answer)

    async def wait(self, vm_id: str, *, deadline_s: float) -> Serving:
        """See `Pager`."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + deadline_s

        def order() -> wire.Order:
            left_s = max(0.0, end_s - loop.time())
            return wire.Wait(vm_id, round(left_s * _ANSWER_SHARE, 3))

        return await self._call(f"wait for machine {vm_id!r}", order, Serving, deadline_s)

    async def end_recording(self, vm_id: str, *, deadline_s: float) -> Recording:
        """See `Pager`."""
        what, tries = f"end the recording of machine {vm_id!r}", _Tries()
        order = wire.EndRecording(vm_id)
        async with self._within(what, deadline_s, tries):
            answer = await self._repeat(what, lambda: order, Recording, tries)
        if isinstance(answer, Refusal) and answer.error == "unknown":
            raise no_record(what, answer)
        return _granted(what, answer)

    async def forget(self, vm_id: str) -> None:
        """See `Pager`."""
        await self._call(f"forget machine {vm_id!r}", wire.Forget(vm_id), wire.Done, self._call_s)

    async def stats(self, *, deadline_s: float | None = None) -> Stats:
        """See `Pager`."""
        limit_s = self._call_s if deadline_s is None else deadline_s
        return await self._call("read the statistics", wire.StatsOrder(), Stats, limit_s)

    async def _call(
        self,
        what: str,
        order: wire.Order | Callable[[], wire.Order],
        kind: type[T],
        deadline_s: float,
    ) -> T:
        make = order if callable(order) else lambda: order
        tries = _Tries()
        async with self._within(what, deadline_s, tries):
            return _granted(what, await self._repeat(what, make, kind, tries))

    @asynccontextmanager
    async def _within(self, what: str, deadline_s: float, tries: _Tries) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(deadline_s):
                yield
        except TimeoutError as exc:
            raise absent(what, self.path, tries.last) from exc

    async def _repeat(
        self, what: str, make: Callable[[], wire.Order], kind: type[T], tries: _Tries
    ) -> T | Refusal:
        """Ask until there is an answer; the caller's deadline ends it."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return _decoded(what, await self._ask(what, make()), kind)
            except LinkLostError as exc:
                tries.note(exc)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _ask(self, what: str, order: wire.Order) -> bytes:
        try:
            return await exchange(self.path, msgspec.json.encode(order))
        except AnswerTooLongError as exc:
            raise misspoken(what, str(exc)) from exc
        except PermissionError as exc:
            raise not_permitted(what, self.path, f"{exc.strerror}") from exc
        except OSError as exc:
            raise unusable(what, self.path, str(exc)) from exc

    async def _knows(self, vm_id: str, what: str, tries: _Tries) -> bool:
        found = _granted(what, await self._repeat(what, wire.StatsOrder, Stats, tries))
        return any(one.vm == vm_id for one in found.machines)


class _Head(msgspec.Struct, frozen=True):
    ok: bool


def _decoded(what: str, line: bytes, kind: type[T]) -> T | Refusal:
    try:
        if msgspec.json.decode(line, type=_Head).ok:
            return msgspec.json.decode(line, type=kind)
        return msgspec.json.decode(line, type=Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise misspoken(what, f"{line[:_SHOWN]!r} ({exc})") from exc


def _is_refused(answer: object, word: str) -> bool:
    return isinstance(answer, Refusal) and answer.error == word


def _granted(what: str, answer: T | Refusal) -> T:
    if isinstance(answer, Refusal):
        raise pager_error(what, answer)
    return answer


def _remove_left_socket(path: Path) -> None:
    """A page server that died between bind(2) and its answer left it; the next one knows nothing
    of it, so nobody listens.
    """
    with contextlib.suppress(OSError):
        if path.is_socket():
            path.unlink()
