"""Say what callers get back."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final, Literal

import msgspec
from aiohttp import web

from agentd.proxy.refusals import RefusedError
from agentd.proxy.requests import WARM_FORK

_JSON: Final = "application/json"


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Of the members a control plane of the first form looks at `ok` first."""

    ok: Literal[True] = True


class Done(_Reply, frozen=True):
    """Nothing more to say: it lives, it is deleted."""


class Created(_Reply, frozen=True):
    """A template is there."""

    template_id: str
    key: str
    snapshot_type: str = WARM_FORK


class TemplateView(msgspec.Struct, frozen=True, kw_only=True):
    """One template. created_at: aware. lease_count: sandboxes that run from it."""

    template_id: str
    key: str
    snapshot_type: str = WARM_FORK
    created_at: datetime
    lease_count: int
    owner: dict[str, str]


class Listed(_Reply, frozen=True):
    """Every template."""

    templates: list[TemplateView]


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Anything but success. error: for programs. message: for people."""

    ok: Literal[False] = False
    error: str
    message: str


Reply = Done | Created | Listed


def answer(message: Reply) -> web.Response:
    """A success, after which the connection ends."""
    return _response(200, message)


def refuse(refused: RefusedError) -> web.Response:
    """A refusal, after which the connection ends."""
    response = _response(refused.status, Refused(error=refused.code, message=refused.message))
    response.headers.update(refused.headers)
    if refused.retry_s > 0:
        response.headers["Retry-After"] = str(math.ceil(refused.retry_s))
    return response


def _response(status: int, message: Reply | Refused) -> web.Response:
    response = web.Response(status=status, body=msgspec.json.encode(message), content_type=_JSON)
    # Else it would tell the versions of what it is built on.
    response.headers["Server"] = "agentd"
    response.force_close()
    return response
