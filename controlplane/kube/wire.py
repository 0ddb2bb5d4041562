"""Decode what an API server sends."""

from __future__ import annotations

from typing import Any

import msgspec

from controlplane.api.meta import JsonObject
from controlplane.errors import PeerError
from controlplane.kube.api import Page, WatchEvent, WatchKind
from controlplane.kube.failures import status_error
from controlplane.kube.resource import Resource


class _ListMeta(msgspec.Struct, rename={"resource_version": "resourceVersion", "next": "continue"}):
    resource_version: str = ""
    next: str = ""


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: tuple[JsonObject, ...] | None = None


class _Line(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct):
    version: str


class _Group(msgspec.Struct, rename="camel"):
    preferred_version: _Version
    versions: tuple[_Version, ...]


def decode_object(what: str, body: bytes) -> JsonObject:
    """One object. Raises: PeerError if it is none."""
    found: JsonObject = _decode(what, body, dict[str, Any])
    if not isinstance(found.get("metadata", {}), dict):
        raise PeerError(f"{what}: the answer is not a Kubernetes object")
    return found


def decode_page(what: str, resource: Resource, body: bytes) -> Page:
    """Part of a list; a server leaves the items' kind to the list's. Raises: PeerError."""
    found: _List = _decode(what, body, _List)
    if not found.metadata.resource_version:
        raise PeerError(f"{what}: the list has no resourceVersion")
    kind = {"apiVersion": resource.api_version, "kind": resource.kind}
    items = tuple({**kind, **item} for item in found.items or ())
    return Page(items, found.metadata.resource_version, found.metadata.next)


def decode_event(what: str, line: bytes) -> WatchEvent:
    """One line of a watch. Raises: PeerError; for an ERROR event what its status stands for."""
    found: _Line = _decode(what, line, _Line)
    raw = bytes(found.object)
    if found.type == "ERROR":
        raise status_error(what, 0, raw)
    try:
        kind = WatchKind(found.type)
    except ValueError as exc:
        raise PeerError(f"{what}: unknown event {found.type!r}") from exc
    return WatchEvent(kind, decode_object(what, raw))


def decode_versions(what: str, body: bytes) -> tuple[str, ...]:
    """A group's versions, the preferred one first. Raises: PeerError."""
    found: _Group = _decode(what, body, _Group)
    first = found.preferred_version.version
    return (first, *(v.version for v in found.versions if v.version != first))


def _decode(what: str, body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise PeerError(f"{what}: the answer is not Kubernetes: {exc}: {body[:100]!r}") from exc


class LineBuffer:
    """Cuts a stream into lines. limit_bytes: of one line."""

    def __init__(self, what: str, limit_bytes: int) -> None:
        self._what = what
        self._limit = limit_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that a chunk completes. Raises: PeerError if one is too long."""
        *complete, rest = chunk.split(b"\n")
        lines = []
        for piece in complete:
            lines.append(b"".join((*self._parts, piece)))
            self._parts, self._size = [], 0
        self._parts.append(rest)
        self._size += len(rest)
        if self._size > self._limit:
            raise PeerError(f"{self._what}: an event of more than {self._limit} bytes")
        return [line for line in lines if line.strip()]

    @property
    def has_rest(self) -> bool:
        """The stream stopped within a line."""
        return self._size > 0
