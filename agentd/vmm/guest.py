"""Give one guest its identity over its channel, then hand the channel over."""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from agentd import native
from agentd.errors import ErrorCode, PeerError
from agentd.vmm.vmm import Connected
from agentd.warmfork.frames import EPOCH_BYTES, Synchroniser, greeting

_READ_BYTES: Final = 65536


@dataclass(frozen=True)
class Started:
    """A guest that has its identity. times: nanoseconds of CLOCK_MONOTONIC."""

    channel: Connected
    ready_ns: int
    started_ns: int


async def start_guest(
    sock: socket.socket, prepare: bytes, *, deadline_ns: int, pool: Executor
) -> Started:
    """Give the guest its identity, wait until it has taken it on.

    Args: sock: connected to the guest; owned by the result, by the caller on failure. prepare: body
    of PREPARE.
    Raises: PeerError. Cancellation: tells the guest, which ends itself.
    """
    target = native.InjectTarget(sock.fileno(), prepare, os.urandom(EPOCH_BYTES), has_clock=True)
    (result,) = await native.run(
        lambda cancel_fd: native.inject(
            [target],
            prepare_deadline_ns=deadline_ns,
            commit_deadline_ns=deadline_ns,
            cancel_fd=cancel_fd,
        ),
        pool=pool,
    )
    if result.status is not native.InjectStatus.STARTED:
        raise inject_error(result)
    return Started(await synchronise(sock), result.ready_ns, result.started_ns)


_CODES: Final = {
    native.InjectStatus.REJECTED: ErrorCode.GUEST_REJECTED,
    native.InjectStatus.PROTOCOL_ERROR: ErrorCode.GUEST_PROTOCOL,
    native.InjectStatus.TIMEOUT_PREPARE: ErrorCode.GUEST_NOT_READY,
    native.InjectStatus.TIMEOUT_COMMIT: ErrorCode.DEADLINE_EXCEEDED,
    native.InjectStatus.PEER_CLOSED: ErrorCode.GUEST_PROTOCOL,
    native.InjectStatus.CONNECT_FAILED: ErrorCode.GUEST_NOT_READY,
    native.InjectStatus.CANCELLED: ErrorCode.SHUTTING_DOWN,
}


def inject_error(result: native.InjectResult) -> PeerError:
    """The error for a guest that did not start."""
    text = result.text or f"the guest did not come beyond {result.phase.name}"
    if result.status is native.InjectStatus.REJECTED:
        text = f"the guest rejected the session: {result.reason!r}: {text}"
    return PeerError(_CODES[result.status], text)


async def synchronise(sock: socket.socket) -> Connected:
    """Begin anew on a channel; its owner speaks from here on. sock: connected to the guest."""
    loop = asyncio.get_running_loop()
    epoch = os.urandom(EPOCH_BYTES)
    await loop.sock_sendall(sock, greeting(epoch))
    synchroniser = Synchroniser(epoch)
    while True:
        data = await loop.sock_recv(sock, _READ_BYTES)
        if not data:
            raise PeerError(ErrorCode.GUEST_PROTOCOL, "the guest hung up once it had started")
        rest = synchroniser.feed(data)
        if rest is not None:
            return Connected(sock, epoch, rest, next_stream=1)
