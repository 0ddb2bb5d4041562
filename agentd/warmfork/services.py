"""Ask a guest for its services (docs/guest-protocol.md, section 4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import msgspec

from agentd.errors import ErrorCode, PeerError, TransientError
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.refusals import refusal
from agentd.warmfork.stream import Stream
from agentd.wire.guest import Done, Failed, GuestStatus, Operation, decode_reply

_T = TypeVar("_T")

STATUS: Final = "status"
CHECKPOINT: Final = "checkpoint"
EXECUTE: Final = "execute"
FILES: Final = "files"
HTTP: Final = "http"
SIGNAL: Final = "signal"


async def fetch_status(channel: GuestChannel, *, deadline_s: float) -> GuestStatus:
    """What the guest says about itself.

    Raises: PeerError when the guest refuses or babbles; TransientError(DEADLINE_EXCEEDED).
    Cancellation: resets the stream; so with every function here.
    """
    return await ask(channel, STATUS, GuestStatus, deadline_s=deadline_s)


async def take_baseline(channel: GuestChannel, *, deadline_s: float) -> GuestStatus:
    """Run the hooks before a snapshot, remember what is there; raises as `fetch_status`."""
    request = Operation(op="baseline")
    return await ask(channel, CHECKPOINT, GuestStatus, request, deadline_s=deadline_s)


async def interrupt(channel: GuestChannel, *, deadline_s: float) -> None:
    """Raise KeyboardInterrupt in the running execution; raises as `fetch_status`."""
    await ask(channel, SIGNAL, Done, Operation(op="interrupt"), deadline_s=deadline_s)


async def restart_interpreter(channel: GuestChannel, *, deadline_s: float) -> None:
    """Start a fresh interpreter, the namespace is lost; raises as `fetch_status`."""
    await ask(channel, SIGNAL, Done, Operation(op="restart"), deadline_s=deadline_s)


async def shutdown(channel: GuestChannel, *, deadline_s: float) -> None:
    """Power the guest off; losing the channel is an answer too. Raises as `fetch_status`."""
    try:
        await ask(channel, SIGNAL, Done, Operation(op="shutdown"), deadline_s=deadline_s)
    except PeerError as exc:
        if exc.code is not ErrorCode.VMM_FAILED:
            raise


async def ask(
    channel: GuestChannel,
    service: str,
    kind: type[_T],
    request: msgspec.Struct | None = None,
    *,
    deadline_s: float,
    **members: Any,
) -> _T:
    """One request, one reply on a stream of its own; raises as `fetch_status`."""
    what = " ".join((service, *(str(value) for value in members.values())))
    async with within(deadline_s, what), await channel.open(service, **members) as stream:
        if request is not None:
            await stream.write_message(request)
        stream.write_eof()
        return await read_reply(stream, kind, what)


async def read_reply(stream: Stream, kind: type[_T], what: str) -> _T:
    """The next message. Raises: the guest's refusal; PeerError when it is anything else."""
    body = await stream.read_message()
    if body is None:
        raise broken(what, "the guest closed the stream without an answer")
    try:
        reply = decode_reply(body, kind)
    except ValueError as exc:
        raise broken(what, str(exc)) from exc
    if isinstance(reply, Failed):
        raise refusal(what, reply.code, reply.message)
    return reply


def broken(what: str, problem: str) -> PeerError:
    """The guest answered `what` with something that is no answer."""
    return PeerError(ErrorCode.GUEST_PROTOCOL, f"{what}: {problem}")


@asynccontextmanager
async def within(deadline_s: float | None, what: str) -> AsyncIterator[None]:
    """Bound the block; None is no bound. Raises: TransientError(DEADLINE_EXCEEDED)."""
    bound = asyncio.timeout(deadline_s)
    try:
        async with bound:
            yield
    except TimeoutError as exc:
        if not bound.expired():
            raise
        raise TransientError(
            ErrorCode.DEADLINE_EXCEEDED,
            f"{what}: the guest did not finish within {deadline_s:g} s",
        ) from exc
