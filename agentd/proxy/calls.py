"""Answer one HTTP request: who asks, what for, may they, then have it done."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from aiohttp import web

from agentd.errors import ConfigError, SnapStartError
from agentd.proxy.audit import Call
from agentd.proxy.bearer import TokenSource, is_allowed
from agentd.proxy.connection import Connection
from agentd.proxy.limits import RATES, Deadlines, TokenBucket
from agentd.proxy.refusals import RefusedError, refusal_of, timed_out
from agentd.proxy.replies import Created, Done, Listed, Reply, answer, refuse
from agentd.proxy.requests import (
    BODY_MAX_BYTES,
    Action,
    CreateTemplate,
    DeleteTemplate,
    ListTemplates,
    parse_request,
)
from agentd.proxy.templates import Templates

ADMIN_PATH: Final = "/kuasar-admin"
HEALTH_PATH: Final = "/healthz"
_METHODS: Final = {ADMIN_PATH: "POST", HEALTH_PATH: "GET"}
_AUTHENTICATE: Final = "WWW-Authenticate"


class Calls:
    """Every request of every connection; `close` ends those that are left, closes `templates`.

    Args: clock: seconds, monotonic.
    """

    def __init__(
        self,
        templates: Templates,
        token: TokenSource,
        deadlines: Deadlines,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._templates = templates
        self._token = token
        self._deadlines = deadlines
        self._clock = clock
        self._buckets = {
            action: TokenBucket(rate.burst, rate.every_s) for action, rate in RATES.items()
        }
        self._running: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Cancel what is not done, wait for it. Idempotent."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        await self._templates.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer, whatever happens. A caller that leaves meanwhile changes nothing."""
        connection = cast(Connection, request.protocol)
        connection.allow(None)
        try:
            with self._noted():
                if (request.method, request.raw_path) == ("GET", HEALTH_PATH):
                    return answer(Done())
                return await self._audited(request, self._call(connection))
        finally:
            connection.allow(self._deadlines.answer_s)

    def answer_bad(self, connection: Connection) -> web.Response:
        """Answer what is no HTTP."""
        call = self._call(connection)
        return self._refused(call, RefusedError(400, "bad_http", "this is no HTTP request"))

    def _call(self, connection: Connection) -> Call:
        return Call(connection.caller, connection.subject, self._clock())

    @contextmanager
    def _noted(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            yield
        finally:
            self._running.discard(task)

    async def _audited(self, request: web.BaseRequest, call: Call) -> web.Response:
        try:
            reply = await self._answer(request, call)
        except asyncio.CancelledError:
            call.result = "cancelled"
            call.write(self._clock())
            raise
        except Exception as exc:
            return self._refused(call, _refusal(exc))
        call.status, call.result = 200, "ok"
        call.write(self._clock())
        return answer(reply)

    def _refused(self, call: Call, refused: RefusedError) -> web.Response:
        call.status, call.result, call.detail = refused.status, refused.code, refused.detail
        call.write(self._clock())
        return refuse(refused)

    async def _answer(self, request: web.BaseRequest, call: Call) -> Reply:
        require_method(request.method, request.raw_path)
        self._require_token(request)
        asked = parse_request(await self._body(request))
        call.about(asked)
        self._require_rate(asked.action)
        match asked:
            case CreateTemplate():
                return await self._create(asked, call)
            case _:
                async with asyncio.timeout(self._deadlines.call_s):
                    return await self._list_or_delete(asked)

    def _require_token(self, request: web.BaseRequest) -> None:
        try:
            token = self._token.read()
        except ConfigError as exc:
            raise RefusedError(
                500, "misconfigured", "this node's agent has no token", detail=str(exc)
            ) from exc
        if not is_allowed(request.headers.getall("Authorization", []), token):
            raise RefusedError(
                401, "unauthorized", "no token, or a wrong one", headers={_AUTHENTICATE: "Bearer"}
            )

    async def _body(self, request: web.BaseRequest) -> bytes:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RefusedError(400, "bad_request", "send the body as it is, not compressed")
        if (request.content_length or 0) > BODY_MAX_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout(self._deadlines.body_s):
                return await _read(request)
        except TimeoutError as exc:
            raise RefusedError(408, "slow_request", "the body did not come in time") from exc
        except (web.RequestPayloadError, OSError) as exc:
            raise RefusedError(400, "bad_http", "the body ended too soon, or is no body") from exc

    def _require_rate(self, action: Action) -> None:
        if wait_s := self._buckets[action].take(self._clock()):
            raise RefusedError(429, "limited", f"too many calls of {action}", retry_s=wait_s)

    async def _create(self, asked: CreateTemplate, call: Call) -> Reply:
        async with asyncio.timeout(self._deadlines.create_s):
            call.template_id = await self._templates.create(asked)
        return Created(template_id=call.template_id, key=asked.key)

    async def _list_or_delete(self, asked: DeleteTemplate | ListTemplates) -> Reply:
        if isinstance(asked, DeleteTemplate):
            await self._templates.delete(asked.template_id)
            return Done()
        return Listed(templates=await self._templates.list())


def require_method(method: str, path: str) -> None:
    """Raises: RefusedError 404, 405. path: as it was sent, so that there is one way to write it."""
    if path not in _METHODS:
        raise RefusedError(404, "no_such_path", f"there is {ADMIN_PATH}, and {HEALTH_PATH}")
    if method != _METHODS[path]:
        raise RefusedError(
            405, "wrong_method", f"use {_METHODS[path]}", headers={"Allow": _METHODS[path]}
        )


async def _read(request: web.BaseRequest) -> bytes:
    """What is too long is refused as soon as it is, never cut."""
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > BODY_MAX_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> RefusedError:
    return RefusedError(413, "body_too_large", f"send at most {BODY_MAX_BYTES} bytes")


def _refusal(exc: Exception) -> RefusedError:
    match exc:
        case RefusedError():
            return exc
        case SnapStartError():
            return refusal_of(exc)
        case TimeoutError():
            return timed_out()
        case _:
            return _defect(exc)


def _defect(exc: Exception) -> RefusedError:
    """The place alone goes into the log: an unforeseen error's words may hold what was sent."""
    place = traceback.extract_tb(exc.__traceback__)[-1]
    detail = f"{type(exc).__name__} at {place.filename}:{place.lineno}"
    return RefusedError(500, "internal", "a defect of this node's agent", detail=detail)
