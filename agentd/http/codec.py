"""Turn bodies into messages, errors into replies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
import structlog
from aiohttp import web

from agentd.errors import (
    ErrorCode,
    InvariantError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.tracing import enter
from agentd.wire.api import ErrorBody, ErrorReply

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON: Final = "application/json"
_encoder = msgspec.json.Encoder()


async def read_body(request: web.Request, kind: type[T]) -> T:
    """The JSON body as a message. Raises: UsageError REQUEST_INVALID."""
    body = await request.read()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"reading the body of {request.method} {request.path}: {exc}",
            hint="GET /openapi.json describes what is expected",
        ) from exc


def reply(status: int, message: msgspec.Struct) -> web.Response:
    """A message as JSON."""
    return web.Response(status=status, body=encode(message), content_type=JSON)


def encode(message: msgspec.Struct) -> bytes:
    """A message as JSON bytes; lone surrogates, which a guest may send, become `?`."""
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as exc:
        raise UsageError(
            ErrorCode.REQUEST_INVALID, f"writing a reply: text is not valid Unicode: {exc}"
        ) from exc


def error_body(error: SnapStartError) -> ErrorBody:
    """An error as callers see it."""
    return ErrorBody(code=error.code.value, message=error.message, hint=error.hint)


def error_reply(error: SnapStartError, status: int | None = None) -> web.Response:
    """An error as a whole reply."""
    response = reply(status or error.code.http_status, ErrorReply(error=error_body(error)))
    if isinstance(error, TransientError):
        response.headers["Retry-After"] = str(max(1, round(error.delay_s)))
    return response


@web.middleware
async def join_trace(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a request does is part of its client's trace."""
    enter(request.headers.get("traceparent", ""))
    return await handler(request)


@web.middleware
async def translate_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place where exceptions become replies."""
    try:
        return await handler(request)
    except SnapStartError as exc:
        _log(request, exc)
        return error_reply(exc)
    except web.HTTPException as exc:
        # Unknown path, wrong method, too large a body: found by aiohttp before any handler.
        error = UsageError(
            ErrorCode.REQUEST_INVALID,
            f"{request.method} {request.path}: {exc.reason}",
            hint="GET /openapi.json describes every path",
        )
        return error_reply(error, exc.status)
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception as exc:
        structlog.get_logger().exception("http.failed", method=request.method, path=request.path)
        return error_reply(InvariantError(f"{request.method} {request.path}: {exc!r}"))


def _log(request: web.Request, error: SnapStartError) -> None:
    log = structlog.get_logger()
    emit = log.debug if isinstance(error, UsageError) else log.warning
    emit(
        "http.refused",
        method=request.method,
        path=request.path,
        code=error.code.value,
        error=str(error),
    )
