"""Use a session from asyncio code."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import BinaryIO, Literal, Self, overload

from agentd.client import calls
from agentd.client.aio import AsyncTransport
from agentd.client.execution import Collector, Execution, ExecutionError, OutputMessage, Result
from agentd.client.sandbox import _GONE, EXECUTION_TIMEOUT_S, choose_callback, is_listed, split_path
from agentd.errors import ErrorCode, UsageError
from agentd.wire import api


class AsyncFiles:
    """The files of a session; paths are absolute or relative to its workspace."""

    def __init__(self, transport: AsyncTransport, session_id: str) -> None:
        self._transport = transport
        self._id = session_id

    async def write(self, path: str, data: str | bytes | BinaryIO) -> None:
        """Put a file, replacing what was there; text is written as UTF-8."""
        raw = data.encode() if isinstance(data, str) else data
        await self._transport.send(calls.write_file(self._id, path, raw))

    @overload
    async def read(self, path: str) -> str: ...
    @overload
    async def read(self, path: str, format: Literal["text"]) -> str: ...
    @overload
    async def read(self, path: str, format: Literal["bytes"]) -> bytes: ...
    async def read(self, path: str, format: Literal["text", "bytes"] = "text") -> str | bytes:
        """Get a file of up to 64 MiB, as UTF-8 text or as bytes; `stream` takes larger ones.

        Raises: UsageError FILE_NOT_FOUND, RESULT_TOO_LARGE; UnicodeDecodeError.
        """
        raw = await self._transport.send(calls.read_file(self._id, path))
        return raw if format == "bytes" else raw.decode()

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        """Get a file of any size in pieces."""
        async with self._transport.stream(calls.read_file(self._id, path)) as pieces:
            async for piece in pieces:
                yield piece

    async def list(self, path: str = ".") -> list[api.Entry]:
        """The entries of a directory, the workspace by default."""
        return (await self._transport.send(calls.list_files(self._id, path))).entries

    async def remove(self, path: str) -> None:
        """Remove a file or a tree. Raises: UsageError FILE_NOT_FOUND."""
        await self._transport.send(calls.remove_file(self._id, path))

    async def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        parent, name = split_path(path)
        if not name:
            return True
        try:
            return is_listed(name, await self.list(parent))
        except UsageError as exc:
            if exc.code is ErrorCode.FILE_NOT_FOUND:
                return False
            raise


class AsyncSandbox:
    """A running session: a microVM with a Python interpreter of its own.

    Made by `create` or `connect`. Used in an `async with` statement it ends the session on
    leaving, whoever started it; `close` only lets go of the connection.
    """

    def __init__(self, info: api.Session, transport: AsyncTransport) -> None:
        self.sandbox_id = info.id
        self.info = info
        self.files = AsyncFiles(transport, info.id)
        self._transport = transport

    @classmethod
    async def create(
        cls,
        template: str = "python",
        *,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        envs: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        metadata: Mapping[str, str] | None = None,
        mode: api.SessionMode = api.SessionMode.FORK,
        request_timeout: float | None = None,
        socket: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Start a session; arguments and errors as of `Sandbox.create`.

        Cancellation: drops the connection, upon which the daemon gives up the start.
        """
        wish = api.CreateSession(
            template=template,
            mode=mode,
            ttl_s=timeout,
            idle_timeout_s=idle_timeout,
            deadline_s=request_timeout,
            env=dict(envs or {}),
            files=dict(files or {}),
            metadata=dict(metadata or {}),
        )
        return await cls._opened(AsyncTransport(socket), calls.create_session(wish))

    @classmethod
    async def connect(
        cls, sandbox_id: str, *, socket: str | os.PathLike[str] | None = None
    ) -> Self:
        """Use a session that exists. Raises: UsageError SESSION_NOT_FOUND, SESSION_ENDED."""
        return await cls._opened(AsyncTransport(socket), calls.show_session(sandbox_id))

    @classmethod
    async def list(cls, *, socket: str | os.PathLike[str] | None = None) -> list[api.Session]:
        """Every session of the daemon."""
        transport = AsyncTransport(socket)
        try:
            return (await transport.send(calls.list_sessions())).sessions
        finally:
            await transport.close()

    @classmethod
    async def _opened(cls, transport: AsyncTransport, call: calls.Call[api.Session]) -> Self:
        try:
            return cls(await transport.send(call), transport)
        except BaseException:
            await transport.close()
            raise

    async def run_code(
        self,
        code: str,
        *,
        on_stdout: Callable[[OutputMessage], object] | None = None,
        on_stderr: Callable[[OutputMessage], object] | None = None,
        on_result: Callable[[Result], object] | None = None,
        on_error: Callable[[ExecutionError], object] | None = None,
        timeout: float | None = EXECUTION_TIMEOUT_S,
        envs: Mapping[str, str] | None = None,
    ) -> Execution:
        """Run Python code; as `Sandbox.run_code`, and callbacks may be coroutine functions.

        Cancellation: drops the connection; the code goes on until `interrupt` or its timeout.
        """
        wish = api.Execute(code=code, timeout_s=timeout, env=dict(envs or {}))
        call = calls.execute(self.sandbox_id, wish)
        collector = Collector(call.what)
        async with self._transport.stream(call) as pieces:
            async for piece in pieces:
                for notice in collector.feed(piece):
                    callback = choose_callback(notice, on_stdout, on_stderr, on_result, on_error)
                    outcome = callback(notice) if callback is not None else None
                    if inspect.isawaitable(outcome):
                        await outcome
        return collector.finish(self._transport.socket_path)

    async def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the running code."""
        await self._transport.send(calls.interrupt(self.sandbox_id))

    async def restart(self) -> None:
        """Start a fresh interpreter in the same session; its variables are lost."""
        await self._transport.send(calls.restart(self.sandbox_id))

    async def get_info(self) -> api.Session:
        """The session as the daemon sees it now."""
        return await self._transport.send(calls.show_session(self.sandbox_id))

    async def is_running(self) -> bool:
        """Whether the session can run code."""
        try:
            return (await self.get_info()).state is api.SessionState.READY
        except UsageError as exc:
            if exc.code in _GONE:
                return False
            raise

    async def kill(self) -> bool:
        """End the session; False if it had ended before. The object cannot be used afterwards."""
        try:
            await self._transport.send(calls.end_session(self.sandbox_id))
        except UsageError as exc:
            if exc.code in _GONE:
                return False
            raise
        finally:
            await self.close()
        return True

    async def close(self) -> None:
        """Let go of the connection and leave the session running."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.kill()

    def __repr__(self) -> str:
        return f"<AsyncSandbox {self.sandbox_id} of {self.info.template}>"
