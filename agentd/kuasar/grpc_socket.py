"""Make unary gRPC calls on a Unix socket, each over a connection of its own.

Importing this module imports grpc: only what speaks gRPC should do so. Nothing else imports grpc,
which reads what is set here when it is imported.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

# What its core writes to standard error by itself is no line of our log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Nothing here forks without exec, and its handlers would open its descriptors anew at each fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode

from agentd.errors import ErrorCode, SnapStartError, TransientError
from agentd.kuasar.failures import LOST_HINT, no_answer, unreachable
from agentd.kuasar.names import require_socket_path
from agentd.units import MIB

__all__ = ["GrpcSocket", "StatusCode", "hold_grpc"]

_REPLY_MAX_BYTES: Final = 16 * MIB
_CHECK_S: Final = 2.0
_SHOWN: Final = 500
_OPTIONS: Final = (
    ("grpc.default_authority", "localhost"),  # tonic refuses one made of a path
    ("grpc.use_local_subchannel_pool", 1),  # no connection, no back-off of another call
    ("grpc.enable_retries", 0),  # nothing is sent twice
    ("grpc.max_receive_message_length", _REPLY_MAX_BYTES),
)
_NEVER_SENT: Final = "failed to connect"
# In words of grpc itself, for what came back and is no gRPC: no server says such.
_BROKEN: Final = ("Stream removed", "RST_STREAM", "HTTP/2")

_Ask = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes | None]
Reply = TypeVar("Reply", bound=Message)
Refusal = Callable[[str, StatusCode, str], SnapStartError]


@functools.cache
def hold_grpc() -> grpc.Channel:
    """Keep open for the life of the process what grpc opens for its first user; in an event loop.

    It would close that after its last user, and aborts the process where no descriptor is left to
    open it with again.
    """
    grpc.aio.init_grpc_aio()
    return grpc.insecure_channel("unix:/never/connected/to")


class GrpcSocket:
    """A gRPC server's socket.

    Args: service: full name. peer, setting: for errors: who serves, and where the operator gave the
    path. refusal: the error for what was attempted, the server's code, its words.
    """

    def __init__(
        self, path: Path, service: str, *, peer: str, setting: str, refusal: Refusal
    ) -> None:
        self.path = path
        self._service = service
        self._peer = peer
        self._setting = setting
        self._refusal = refusal

    async def call(
        self, what: str, method: str, request: Message, reply: type[Reply], *, deadline_s: float
    ) -> Reply:
        """Ask, and return the reply.

        Args: what: for errors: the action, its object. deadline_s: seconds for all of it.
        Raises: TransientError PROVIDER_UNREACHABLE, DEADLINE_EXCEEDED; ConfigError
        PERMISSION_DENIED, CONFIG_INVALID (path too long); PeerError PROVIDER_PROTOCOL; what
        `refusal` makes of one.
        Cancellation: closes the connection, at which the server may abandon what it does.
        """
        hold_grpc()
        target = f"unix:{quote(os.fsencode(require_socket_path(what, self.path)))}"
        try:
            async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
                ask: _Ask = channel.unary_unary(f"/{self._service}/{method}")
                data = await ask(request.SerializeToString(), timeout=deadline_s)
        except grpc.aio.AioRpcError as exc:
            raise await self._error(what, exc.code(), exc.details() or "", deadline_s) from exc
        return self._decoded(what, data, reply)

    def _decoded(self, what: str, data: bytes | None, reply: type[Reply]) -> Reply:
        if data is None:
            raise no_answer(what, "no message", peer=self._peer)
        try:
            return reply.FromString(data)
        except DecodeError as exc:
            name = reply.DESCRIPTOR.full_name
            got = f"{data[:80]!r}, which is no {name}"
            raise no_answer(what, got, peer=self._peer) from exc

    async def _error(
        self, what: str, code: StatusCode, said: str, deadline_s: float
    ) -> SnapStartError:
        if code is StatusCode.UNAVAILABLE and said.startswith(_NEVER_SENT):
            return await self._why_unreachable(what, said)
        return self._meaning(what, code, said, deadline_s)

    async def _why_unreachable(self, what: str, said: str) -> SnapStartError:
        """By connecting once more, since gRPC tells no errno."""
        try:
            async with asyncio.timeout(_CHECK_S):
                _, writer = await asyncio.open_unix_connection(self.path)
        except TimeoutError:
            pass
        except OSError as exc:
            return unreachable(what, self.path, exc, setting=self._setting)
        else:
            writer.transport.abort()
        return TransientError(
            ErrorCode.PROVIDER_UNREACHABLE,
            f"{what}: {str(self.path)!r} is served, but not by gRPC: {said[:_SHOWN]}",
            hint=f"its server is being restarted, or {self._setting} is another's socket",
        )

    def _meaning(self, what: str, code: StatusCode, said: str, deadline_s: float) -> SnapStartError:
        words = said[:_SHOWN]
        match code:
            case StatusCode.DEADLINE_EXCEEDED:
                return TransientError(
                    ErrorCode.DEADLINE_EXCEEDED,
                    f"{what}: no reply on {str(self.path)!r} within {deadline_s:g} s",
                    hint="its server may still be at it; look again before repeating",
                )
            case StatusCode.UNAVAILABLE | StatusCode.CANCELLED:
                return TransientError(
                    ErrorCode.PROVIDER_UNREACHABLE,
                    f"{what}: the call on {str(self.path)!r} ended before its reply: {words}",
                    hint=LOST_HINT,
                )
            case StatusCode.UNIMPLEMENTED | StatusCode.RESOURCE_EXHAUSTED:
                return no_answer(what, f"{code.name} {words!r}", peer=self._peer)
            case _ if any(mark in said for mark in _BROKEN):
                return no_answer(what, f"no gRPC: {words}", peer=self._peer, hint=LOST_HINT)
            case _:
                return self._refusal(what, code, said)
