"""Describe the local API in OpenAPI 3.1, from the message types."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from agentd.errors import ErrorCode
from agentd.http.routes import Route
from agentd.wire.api import ErrorReply

_PARAMETER: Final = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
_REF: Final = "#/components/schemas/{name}"


def describe_api(routes: Iterable[Route], version: str) -> bytes:
    """The document as JSON."""
    routes = list(routes)
    kinds = {_struct(kind) for route in routes for kind in (route.takes, route.gives)} - {None}
    ordered = sorted((kind for kind in kinds if kind is not None), key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components([*ordered, ErrorReply], ref_template=_REF)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "SnapStart local API", "version": version},
        "paths": _paths(routes),
        "components": {"schemas": components, "responses": {"Error": _error_response()}},
    }
    return msgspec.json.encode(document)


def _paths(routes: list[Route]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for route in routes:
        methods = _METHODS if route.method == "*" else (route.method.lower(),)
        item = paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})
        for method in methods:
            item[method] = _operation(route)
    return paths


_METHODS: Final = ("get", "put", "post", "delete", "patch", "head", "options")


def _operation(route: Route) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "success"}
    if route.gives is not None:
        success["content"] = _content(route.gives)
    operation: dict[str, Any] = {
        "summary": route.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PARAMETER.findall(route.path)
        ],
        "responses": {
            str(route.status): success,
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.takes)}
    return operation


def _content(kind: type[Any]) -> dict[str, Any]:
    struct = _struct(kind)
    if struct is None:
        return {"application/octet-stream": {}}
    return {"application/json": {"schema": {"$ref": _REF.format(name=struct.__name__)}}}


def _struct(kind: type[Any] | None) -> type[msgspec.Struct] | None:
    return kind if kind is not None and issubclass(kind, msgspec.Struct) else None


def _error_response() -> dict[str, Any]:
    codes = ", ".join(f"{code.value} ({code.http_status})" for code in ErrorCode)
    return {
        "description": f"failure; the codes with their statuses: {codes}",
        "content": _content(ErrorReply),
    }
