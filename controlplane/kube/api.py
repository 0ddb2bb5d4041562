"""Define what the rest of the program asks of a Kubernetes API server."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from controlplane.api.meta import JsonObject
from controlplane.kube.resource import Resource


class WatchKind(enum.StrEnum):
    """What a watch reports."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True)
class WatchEvent:
    """One report; body: the object, of a bookmark only its metadata."""

    kind: WatchKind
    body: JsonObject


@dataclass(frozen=True)
class Page:
    """Part of a list. resource_version: watch from here. next_page: empty on the last one."""

    items: tuple[JsonObject, ...]
    resource_version: str
    next_page: str = ""


class KubeApi(Protocol):
    """A typed face over plain objects; every call ends within the client's time-out.

    Raises, everywhere: NotFoundError, AlreadyExistsError, ConflictError, ExpiredError,
    ForbiddenError, RejectedError (the server refuses the object), UnavailableError (no connection,
    time-out, 429, 5xx), PeerError (an answer that is not Kubernetes).
    Cancellation: closes the request; a write may or may not have happened.
    """

    async def get(self, resource: Resource, name: str, namespace: str = "") -> JsonObject:
        """One object, from the server."""

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        page: str = "",
    ) -> Page:
        """A page of at most 500. labels, fields: selectors. page: where the last one ended."""

    def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """Changes after a version, with bookmarks; ends when the server ends it."""

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Create; the namespace is the body's own."""

    async def replace(
        self, resource: Resource, body: JsonObject, *, subresource: str = ""
    ) -> JsonObject:
        """Replace if the body's resourceVersion is still current."""

    async def merge(
        self,
        resource: Resource,
        name: str,
        patch: JsonObject,
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> JsonObject:
        """JSON merge patch (RFC 7386); with metadata.resourceVersion in it, only if current."""

    async def apply(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        manager: str,
        subresource: str = "",
        force: bool = False,
    ) -> JsonObject:
        """Server-side apply. Raises: ConflictError if another manager owns a field."""

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        grace_s: int | None = None,
    ) -> None:
        """Delete, in the background; with a UID only that object. Absent: NotFoundError."""

    async def preferred_version(self, group: str) -> str:
        """The version that discovery prefers for a group. Raises: NotFoundError if unserved."""

    async def served_versions(self, group: str) -> tuple[str, ...]:
        """All of a group, the preferred one first. Raises: NotFoundError if unserved."""
