"""Ask a running QEMU off the fork path (QMP, docs/interop/qmp-spec of QEMU)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from pathlib import Path
from typing import Any, Final

import msgspec

from agentd.errors import ErrorCode, PeerError
from agentd.units import KIB, MIB

CONSOLE_BYTES: Final = 64 * KIB
_LINE_LIMIT: Final = MIB


class _Problem(msgspec.Struct, frozen=True):
    desc: str


class _Message(msgspec.Struct, frozen=True):
    """A greeting, an event or a reply; QEMU may add members."""

    id: str | None = None
    result: Any = msgspec.field(default=None, name="return")
    error: _Problem | None = None


class QmpClient:
    """One connection to a QMP monitor; events are skipped. Use as `async with`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> QmpClient:
        self._reader, self._writer = await asyncio.open_unix_connection(
            self._path, limit=_LINE_LIMIT
        )
        try:
            await self._read()
            await self.execute("qmp_capabilities")
        except BaseException:
            self._writer.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._writer is not None
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self) -> _Message:
        assert self._reader is not None
        try:
            line = await self._reader.readline()
            if line:
                return msgspec.json.decode(line, type=_Message)
        except (ValueError, msgspec.DecodeError) as exc:  # ValueError: longer than the limit
            raise self._misbehaved(str(exc)) from exc
        except OSError as exc:
            raise PeerError(ErrorCode.VMM_FAILED, f"reading QMP at {self._path}: {exc}") from exc
        raise PeerError(ErrorCode.VMM_FAILED, f"reading QMP at {self._path}: it hung up")

    def _misbehaved(self, what: str) -> PeerError:
        return PeerError(ErrorCode.VMM_PROTOCOL, f"reading QMP at {self._path}: {what}")

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run one command. Raises: PeerError with QEMU's description when it refuses."""
        assert self._writer is not None
        request: dict[str, Any] = {"execute": command, "id": command}
        if arguments:
            request["arguments"] = arguments
        self._writer.write(msgspec.json.encode(request) + b"\n")
        await self._writer.drain()
        while True:
            message = await self._read()
            if message.error is not None:
                raise PeerError(
                    ErrorCode.VMM_FAILED, f"QMP {command!r} at {self._path}: {message.error.desc}"
                )
            if message.id == command:
                return message.result


async def read_console(path: Path, *, deadline_s: float) -> str:
    """What the guest wrote to its console since the last call; empty when QEMU cannot be asked.

    Base64 on the way: with its other format QEMU stops at a NUL, which the guest may write.
    """
    wish = {"device": "console", "size": CONSOLE_BYTES, "format": "base64"}
    try:
        async with asyncio.timeout(deadline_s), QmpClient(path) as qmp:
            data = base64.b64decode(await qmp.execute("ringbuf-read", wish))
    except (OSError, TimeoutError, PeerError, TypeError, ValueError):
        return ""
    return data.decode(errors="replace")
