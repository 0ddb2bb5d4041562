"""Use a session from blocking Python code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, Literal, Self, overload

from agentd.client import calls
from agentd.client.execution import (
    Collector,
    Execution,
    ExecutionError,
    Notice,
    OutputMessage,
    Result,
)
from agentd.client.transport import Transport
from agentd.errors import ErrorCode, UsageError
from agentd.wire import api

EXECUTION_TIMEOUT_S = 300.0
_GONE = frozenset({ErrorCode.SESSION_NOT_FOUND, ErrorCode.SESSION_ENDED})


def split_path(path: str) -> tuple[str, str]:
    """The directory to list and the name to look for in it."""
    parent, _, name = path.rstrip("/").rpartition("/")
    return parent or ("/" if path.startswith("/") else "."), name


def is_listed(name: str, entries: Sequence[api.Entry]) -> bool:
    """Whether a directory's entries hold this name."""
    return any(entry.path.rstrip("/").rpartition("/")[2] == name for entry in entries)


class Files:
    """The files of a session; paths are absolute or relative to its workspace."""

    def __init__(self, transport: Transport, session_id: str) -> None:
        self._transport = transport
        self._id = session_id

    def write(self, path: str, data: str | bytes | BinaryIO) -> None:
        """Put a file, replacing what was there; text is written as UTF-8."""
        raw = data.encode() if isinstance(data, str) else data
        self._transport.send(calls.write_file(self._id, path, raw))

    @overload
    def read(self, path: str) -> str: ...
    @overload
    def read(self, path: str, format: Literal["text"]) -> str: ...
    @overload
    def read(self, path: str, format: Literal["bytes"]) -> bytes: ...
    def read(self, path: str, format: Literal["text", "bytes"] = "text") -> str | bytes:
        """Get a file of up to 64 MiB, as UTF-8 text or as bytes; `stream` takes larger ones.

        Raises: UsageError FILE_NOT_FOUND, RESULT_TOO_LARGE; UnicodeDecodeError.
        """
        raw = self._transport.send(calls.read_file(self._id, path))
        return raw if format == "bytes" else raw.decode()

    def stream(self, path: str) -> Iterator[bytes]:
        """Get a file of any size in pieces."""
        with self._transport.stream(calls.read_file(self._id, path)) as pieces:
            yield from pieces

    def list(self, path: str = ".") -> list[api.Entry]:
        """The entries of a directory, the workspace by default."""
        return self._transport.send(calls.list_files(self._id, path)).entries

    def remove(self, path: str) -> None:
        """Remove a file or a tree. Raises: UsageError FILE_NOT_FOUND."""
        self._transport.send(calls.remove_file(self._id, path))

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        parent, name = split_path(path)
        if not name:
            return True
        try:
            return is_listed(name, self.list(parent))
        except UsageError as exc:
            if exc.code is ErrorCode.FILE_NOT_FOUND:
                return False
            raise


class Sandbox:
    """A running session: a microVM with a Python interpreter of its own.

    Made by `create` or `connect`. Used in a `with` statement it ends the session on leaving,
    whoever started it; `close` only lets go of the connection.
    """

    def __init__(self, info: api.Session, transport: Transport) -> None:
        self.sandbox_id = info.id
        self.info = info
        self.files = Files(transport, info.id)
        self._transport = transport

    @classmethod
    def create(
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
        """Start a session, by default as a copy of a warm template.

        Args: timeout, idle_timeout: seconds until the daemon ends the session, from now and from
        its last use. files: workspace paths to contents, at most 1 MiB together. request_timeout:
        seconds the start may take. socket: the daemon's, default SNAPSTART_SOCKET.
        Raises: SnapStartError with the code of what went wrong.
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
        transport = Transport(socket)
        return cls._opened(transport, calls.create_session(wish))

    @classmethod
    def connect(cls, sandbox_id: str, *, socket: str | os.PathLike[str] | None = None) -> Self:
        """Use a session that exists. Raises: UsageError SESSION_NOT_FOUND, SESSION_ENDED."""
        return cls._opened(Transport(socket), calls.show_session(sandbox_id))

    @classmethod
    def list(cls, *, socket: str | os.PathLike[str] | None = None) -> list[api.Session]:
        """Every session of the daemon."""
        transport = Transport(socket)
        try:
            return transport.send(calls.list_sessions()).sessions
        finally:
            transport.close()

    @classmethod
    def _opened(cls, transport: Transport, call: calls.Call[api.Session]) -> Self:
        try:
            return cls(transport.send(call), transport)
        except BaseException:
            transport.close()
            raise

    def run_code(
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
        """Run Python code in the session's interpreter; variables stay for the next call.

        Args: on_…: called with each piece as it comes. timeout: seconds of wall time, after which
        the code is interrupted; None is no limit. envs: environment for this code only.
        Returns: the outcome; an exception of the code is its `error`, it is not raised here.
        Raises: SnapStartError if the code could not be run or its end was not seen;
        AGENT_UNREACHABLE when the daemon went away, with the code possibly still running.
        """
        wish = api.Execute(code=code, timeout_s=timeout, env=dict(envs or {}))

        def notify(notice: Notice) -> None:
            callback = choose_callback(notice, on_stdout, on_stderr, on_result, on_error)
            if callback is not None:
                callback(notice)

        return execute(self._transport, self.sandbox_id, wish, notify)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the running code."""
        self._transport.send(calls.interrupt(self.sandbox_id))

    def restart(self) -> None:
        """Start a fresh interpreter in the same session; its variables are lost."""
        self._transport.send(calls.restart(self.sandbox_id))

    def get_info(self) -> api.Session:
        """The session as the daemon sees it now."""
        return self._transport.send(calls.show_session(self.sandbox_id))

    def is_running(self) -> bool:
        """Whether the session can run code."""
        try:
            return self.get_info().state is api.SessionState.READY
        except UsageError as exc:
            if exc.code in _GONE:
                return False
            raise

    def kill(self) -> bool:
        """End the session; False if it had ended before. The object cannot be used afterwards."""
        try:
            self._transport.send(calls.end_session(self.sandbox_id))
        except UsageError as exc:
            if exc.code in _GONE:
                return False
            raise
        finally:
            self.close()
        return True

    def close(self) -> None:
        """Let go of the connection and leave the session running."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<Sandbox {self.sandbox_id} of {self.info.template}>"


def execute(
    transport: Transport,
    session_id: str,
    wish: api.Execute,
    notify: Callable[[Notice], object],
) -> Execution:
    """Run code in a session and show what it gives as it comes; see `Sandbox.run_code`."""
    call = calls.execute(session_id, wish)
    collector = Collector(call.what)
    with transport.stream(call) as pieces:
        for piece in pieces:
            for notice in collector.feed(piece):
                notify(notice)
    return collector.finish(transport.socket_path)


def choose_callback(
    notice: Notice,
    on_stdout: Callable[..., object] | None,
    on_stderr: Callable[..., object] | None,
    on_result: Callable[..., object] | None,
    on_error: Callable[..., object] | None,
) -> Callable[..., object] | None:
    """Which of a caller's callbacks wants this notice, if any."""
    if isinstance(notice, Result):
        return on_result
    if isinstance(notice, ExecutionError):
        return on_error
    return on_stderr if notice.error else on_stdout
