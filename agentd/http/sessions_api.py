"""Serve the paths below /v1/sessions."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

from aiohttp import web

from agentd.engine.engine import Engine
from agentd.engine.session import EndReason, Session
from agentd.engine.tasks import uninterrupted
from agentd.errors import ErrorCode, SnapStartError, UsageError
from agentd.http.codec import encode, read_body, reply
from agentd.http.relay import pass_on
from agentd.http.routes import Route
from agentd.http.views import view_session
from agentd.settings import LiveSettings
from agentd.units import MIB
from agentd.warmfork import files, services
from agentd.warmfork.execution import collect_execution, execute
from agentd.warmfork.prepare import check_env
from agentd.wire import api
from agentd.wire.guest import ExecuteRequest, Failed

_NDJSON = "application/x-ndjson"
_OUTPUT_BYTES = MIB  # the protocol's own defaults and bounds
_RESULT_BYTES = 10 * MIB
_LIMIT_BYTES = 64 * MIB
_GRACE_S = 15.0  # for a guest to interrupt, kill and report after its own time-out
_TRANSFER_BYTES_PER_S = MIB  # slower than that for transfer_s on end is stuck


class SessionsApi:
    """Handlers for sessions, with what runs in them."""

    def __init__(self, engine: Engine, settings: LiveSettings) -> None:
        self._engine = engine
        self._sessions = engine.sessions
        self._settings = settings

    @property
    def _call_s(self) -> float:
        return self._settings.deadlines.call_s

    def routes(self) -> list[Route]:
        """What is served here."""
        one = "/v1/sessions/{id}"
        file = one + "/files/{path:.+}"
        return [
            Route("POST", "/v1/sessions", "Start a session", self.create,
                  api.CreateSession, api.Session, 201),
            Route("GET", "/v1/sessions", "Live sessions", self.list, None, api.Sessions),
            Route("GET", one, "One session", self.show, None, api.Session),
            Route("DELETE", one, "End a session", self.delete, status=204),
            Route("POST", one + "/execute", "Run code", self.execute, api.Execute, api.Execution),
            Route("POST", one + "/interrupt", "Interrupt what runs", self.interrupt, status=204),
            Route("POST", one + "/restart", "Fresh interpreter", self.restart, status=204),
            Route("PUT", file, "Write a file", self.put_file, bytes, None, 204),
            Route("GET", file, "Read a file", self.get_file, None, bytes),
            Route("DELETE", file, "Remove a file or tree", self.remove_file, status=204),
            Route("GET", one + "/entries", "List a directory (?path=)", self.entries,
                  None, api.Entries),
            Route("*", one + "/http/{path:.*}", "The guest's own HTTP interface", self.http,
                  bytes, bytes),
        ]  # fmt: skip

    # -- sessions ---------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Start a session; a client that is gone before it hears of it does not leave one."""
        wish = await read_body(request, api.CreateSession)
        session = await self._sessions.create(wish)
        response = reply(201, self._view(session))
        try:
            await response.prepare(request)
            await response.write_eof()
        except BaseException:
            await uninterrupted(self._sessions.end(session.id, EndReason.CLIENT_GONE))
            raise
        return response

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Live sessions."""
        sessions = [self._view(session) for session in self._sessions.list()]
        return reply(200, api.Sessions(sessions=sessions))

    async def show(self, request: web.Request) -> web.StreamResponse:
        """One session."""
        return reply(200, self._view(self._sessions.get(_id(request))))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """End a session."""
        await self._sessions.end(_id(request), EndReason.DELETED)
        return web.Response(status=204)

    def _view(self, session: Session) -> api.Session:
        loop_now_s = asyncio.get_running_loop().time()
        return view_session(session, loop_now_s=loop_now_s, now_s=time.time())

    # -- code -------------------------------------------------------------------------------

    async def execute(self, request: web.Request) -> web.StreamResponse:
        """Run code, answering at its end or, for NDJSON, as it goes."""
        order = _guest_order(await read_body(request, api.Execute))
        wait_s = None if order.timeout_s is None else order.timeout_s + _GRACE_S
        async with (
            self._sessions.use(_id(request)) as machine,
            services.within(wait_s, f"execution {order.execution_id}"),
        ):
            if _NDJSON in request.headers.get("Accept", ""):
                async with execute(machine.channel, order) as events:
                    return await _stream(request, events)
            async with execute(machine.channel, order) as events:
                return reply(200, await collect_execution(order, events))

    async def interrupt(self, request: web.Request) -> web.StreamResponse:
        """KeyboardInterrupt in what runs."""
        async with self._sessions.use(_id(request)) as machine:
            await services.interrupt(machine.channel, deadline_s=self._call_s)
        return web.Response(status=204)

    async def restart(self, request: web.Request) -> web.StreamResponse:
        """A fresh interpreter."""
        async with self._sessions.use(_id(request)) as machine:
            await services.restart_interpreter(machine.channel, deadline_s=self._call_s)
        return web.Response(status=204)

    # -- files ------------------------------------------------------------------------------

    async def put_file(self, request: web.Request) -> web.StreamResponse:
        """Write a file from the body."""
        size_bytes = self._upload_size(request)
        deadline_s = self._settings.deadlines.transfer_s + size_bytes / _TRANSFER_BYTES_PER_S
        async with self._sessions.use(_id(request)) as machine:
            await files.put_file(
                machine.channel,
                _path(request),
                request.content.iter_any(),
                size_bytes=size_bytes,
                deadline_s=deadline_s,
            )
        return web.Response(status=204)

    def _upload_size(self, request: web.Request) -> int:
        size_bytes = request.content_length
        if size_bytes is None:
            if request.body_exists:
                raise web.HTTPLengthRequired
            return 0
        if size_bytes > self._settings.api.max_file_bytes:
            raise web.HTTPRequestEntityTooLarge(self._settings.api.max_file_bytes, size_bytes)
        return size_bytes

    async def get_file(self, request: web.Request) -> web.StreamResponse:
        """Read a file as it comes."""
        async with (
            self._sessions.use(_id(request)) as machine,
            files.get_file(machine.channel, _path(request), deadline_s=self._call_s) as download,
        ):
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            response.content_length = download.size_bytes
            await response.prepare(request)
            async for chunk in download.chunks:
                await response.write(chunk)
            await response.write_eof()
            return response

    async def remove_file(self, request: web.Request) -> web.StreamResponse:
        """Remove a file or a tree."""
        async with self._sessions.use(_id(request)) as machine:
            await files.remove(machine.channel, _path(request), deadline_s=self._call_s)
        return web.Response(status=204)

    async def entries(self, request: web.Request) -> web.StreamResponse:
        """List a directory."""
        path = request.query.get("path", ".")
        async with self._sessions.use(_id(request)) as machine:
            found = await files.list_entries(machine.channel, path, deadline_s=self._call_s)
        return reply(200, api.Entries(entries=found))

    # -- the guest's own interface ----------------------------------------------------------

    async def http(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on."""
        async with self._sessions.use(_id(request)) as machine:
            run_dir = machine.vm.record.run_dir
            return await pass_on(request, machine.channel, run_dir, _path(request), self._call_s)


def _guest_order(wish: api.Execute) -> ExecuteRequest:
    check_env(wish.env)
    if wish.timeout_s is not None and not 0 < wish.timeout_s <= 86400:
        raise UsageError(
            ErrorCode.REQUEST_INVALID, f"running code: timeout_s is {wish.timeout_s!r}",
            hint="give a positive number of seconds, at most a day",
        )  # fmt: skip
    return ExecuteRequest(
        execution_id=secrets.token_hex(8),
        code=wish.code,
        timeout_s=wish.timeout_s,
        max_output_bytes=_limit(wish.max_output_bytes, _OUTPUT_BYTES, "max_output_bytes"),
        max_result_bytes=_limit(wish.max_result_bytes, _RESULT_BYTES, "max_result_bytes"),
        env=wish.env,
    )


def _limit(asked: int | None, default: int, member: str) -> int:
    if asked is None:
        return default
    if not 0 <= asked <= _LIMIT_BYTES:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"running code: {member} is {asked!r}",
            hint=f"give a number of bytes in 0..{_LIMIT_BYTES}",
        )
    return asked


async def _stream(request: web.Request, events: AsyncIterator[object]) -> web.StreamResponse:
    """Events as lines; a failure after the first line is a line of its own, `type` `failed`."""
    response = web.StreamResponse(headers={"Content-Type": _NDJSON})
    await response.prepare(request)
    try:
        async for event in events:
            await response.write(encode(event) + b"\n")  # type: ignore[arg-type]
    except SnapStartError as exc:
        failed = Failed(code=exc.code.value, message=exc.message)
        await response.write(encode(failed) + b"\n")
    await response.write_eof()
    return response


def _id(request: web.Request) -> str:
    return request.match_info["id"]


def _path(request: web.Request) -> str:
    return request.match_info["path"]
