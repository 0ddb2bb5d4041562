"""Exchange one line of JSON for another with a sandboxer's admin socket.

One request per connection. The server gives no reply at all to what it cannot read, and goes on
with its work when its client leaves; so an end without a reply says nothing of what was done.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import msgspec

from agentd.errors import ErrorCode, PeerError, TransientError
from agentd.kuasar.failures import LOST_HINT, kuasar_error, no_answer, unreachable
from agentd.kuasar.names import require_socket_path
from agentd.units import MIB

DEFAULT_PATH: Final = Path("/run/vmm-sandboxer-admin.sock")
_REPLY_MAX_BYTES: Final = 16 * MIB
_SHOWN: Final = 200


class AdminSocket:
    """A sandboxer's admin socket.

    Args: deadline_s: for one call as a whole, where the call does not say.
    """

    def __init__(self, path: Path = DEFAULT_PATH, *, deadline_s: float = 30.0) -> None:
        self.path = path
        self._deadline_s = deadline_s

    async def call(
        self, what: str, action: str, *, deadline_s: float | None = None, **members: Any
    ) -> dict[str, Any]:
        """Ask, and return the members of the reply.

        Args: what: for errors: the action, its object. members: None is left out.
        Raises: TransientError PROVIDER_UNREACHABLE, DEADLINE_EXCEEDED; ConfigError
        PERMISSION_DENIED, CONFIG_INVALID (path too long); PeerError PROVIDER_PROTOCOL; what
        `kuasar_error` makes of a refusal.
        Cancellation: closes the connection; the sandboxer goes on.
        """
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        sent = {"action": action} | {key: v for key, v in members.items() if v is not None}
        try:
            async with asyncio.timeout(limit_s):
                line = await self._exchange(what, msgspec.json.encode(sent) + b"\n")
        except TimeoutError as exc:
            raise TransientError(
                ErrorCode.DEADLINE_EXCEEDED,
                f"{what}: no reply on {str(self.path)!r} within {limit_s:g} s",
                hint="the sandboxer may still be at it; look again before repeating",
            ) from exc
        return _accepted(what, _decoded(what, line))

    async def _exchange(self, what: str, request: bytes) -> bytes:
        path = require_socket_path(what, self.path)
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=_REPLY_MAX_BYTES)
        except OSError as exc:
            raise unreachable(what, path, exc, setting="kuasar.admin_socket") from exc
        try:
            writer.write(request)
            await writer.drain()
            return await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as exc:
            raise _no_reply(what, exc.partial) from exc
        except asyncio.LimitOverrunError as exc:
            raise no_answer(what, f"a reply of more than {_REPLY_MAX_BYTES} bytes") from exc
        except OSError as exc:
            raise _no_reply(what, b"") from exc
        finally:
            writer.transport.abort()


def _decoded(what: str, line: bytes) -> dict[str, Any]:
    try:
        reply = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise no_answer(what, f"{line[:_SHOWN]!r}, which is not JSON ({exc})") from exc
    if not isinstance(reply, dict):
        raise no_answer(what, f"{line[:_SHOWN]!r}, which is no object")
    return reply


def _accepted(what: str, reply: dict[str, Any]) -> dict[str, Any]:
    is_ok, said = reply.get("ok"), reply.get("error")
    if is_ok is True:
        return reply
    if is_ok is False and isinstance(said, str):
        raise kuasar_error(what, said)
    raise no_answer(what, f"{str(reply)[:_SHOWN]}, without `ok`, or without a reason")


def _no_reply(what: str, partial: bytes) -> PeerError:
    got = f"after {partial[:_SHOWN]!r}" if partial else "without a reply"
    return no_answer(what, f"the end of the connection {got}", hint=LOST_HINT)
