"""Offer a Kubernetes API server's verbs as a KubeApi."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from random import Random
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from controlplane.api.meta import JsonObject
from controlplane.errors import InvariantError
from controlplane.kube import wire
from controlplane.kube.api import Page, WatchEvent
from controlplane.kube.connect import KubeSettings
from controlplane.kube.resource import Resource
from controlplane.kube.transport import Call, Transport, open_transport

_PAGE: Final = "500"
_JSON: Final = "application/json"
_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML


async def open_kube(
    settings: KubeSettings,
    *,
    environ: Mapping[str, str] | None = None,
    random: Random | None = None,
) -> KubeClient:
    """A KubeApi; nothing is sent yet. The caller closes it. Raises: ConfigError."""
    return KubeClient(await open_transport(settings, environ), random or Random())


class KubeClient:
    """A KubeApi over HTTP. Owns the transport."""

    def __init__(self, transport: Transport, random: Random) -> None:
        self._transport = transport
        self._random = random

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; open watches end. Safe to repeat."""
        await self._transport.close()

    # Reads

    async def get(self, resource: Resource, name: str, namespace: str = "") -> JsonObject:
        """As KubeApi.get."""
        return await self._object(_call("GET", "get", resource, namespace, name))

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        page: str = "",
    ) -> Page:
        """As KubeApi.list."""
        query = {
            "limit": _PAGE,
            **_selectors(labels, fields),
            **({"continue": page} if page else {}),
        }
        call = _call("GET", "list", resource, namespace, query=query)
        return wire.decode_page(call.what, resource, await self._transport.fetch(call))

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        """As KubeApi.watch; also ends when nothing, not even a bookmark, came for `silence_s`."""
        timeout_s = self._transport.settings.watch_s * (1 + self._random.random())
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(int(timeout_s)),
            **_selectors(labels, fields),
        }
        call = _call("GET", "watch", resource, namespace, query=query)
        async with aclosing(self._transport.stream(call)) as lines:
            async for line in lines:
                yield wire.decode_event(call.what, line)

    async def preferred_version(self, group: str) -> str:
        """As KubeApi.preferred_version."""
        return (await self.served_versions(group))[0]

    async def served_versions(self, group: str) -> tuple[str, ...]:
        """As KubeApi.served_versions."""
        if not group:
            return ("v1",)
        call = Call(f"discover {group}", "GET", f"/apis/{quote(group, safe='')}", {})
        return wire.decode_versions(call.what, await self._transport.fetch(call))

    # Writes

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        """As KubeApi.create."""
        meta = body.get("metadata", {})
        namespace, name = (
            meta.get("namespace", ""),
            meta.get("name") or meta.get("generateName", ""),
        )
        call = _call("POST", "create", resource, namespace, body=_typed(resource, body), label=name)
        return await self._object(call)

    async def replace(
        self, resource: Resource, body: JsonObject, *, subresource: str = ""
    ) -> JsonObject:
        """As KubeApi.replace."""
        meta = body.get("metadata", {})
        return await self._object(
            _call(
                "PUT",
                "replace",
                resource,
                meta.get("namespace", ""),
                _required(meta),
                subresource,
                body=_typed(resource, body),
            )
        )

    async def merge(
        self,
        resource: Resource,
        name: str,
        patch: JsonObject,
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> JsonObject:
        """As KubeApi.merge."""
        return await self._object(
            _call(
                "PATCH",
                "patch",
                resource,
                namespace,
                name,
                subresource,
                body=patch,
                content_type=_MERGE,
            )
        )

    async def apply(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        manager: str,
        subresource: str = "",
        force: bool = False,
    ) -> JsonObject:
        """As KubeApi.apply."""
        meta = body.get("metadata", {})
        return await self._object(
            _call(
                "PATCH",
                "apply",
                resource,
                meta.get("namespace", ""),
                _required(meta),
                subresource,
                query={"fieldManager": manager, "force": "true" if force else "false"},
                body=_typed(resource, body),
                content_type=_APPLY,
            )
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        grace_s: int | None = None,
    ) -> None:
        """As KubeApi.delete."""
        body: JsonObject = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        await self._transport.fetch(_call("DELETE", "delete", resource, namespace, name, body=body))

    # Inside

    async def _object(self, call: Call) -> JsonObject:
        return wire.decode_object(call.what, await self._transport.fetch(call))


def _call(
    method: str,
    verb: str,
    resource: Resource,
    namespace: str,
    name: str = "",
    subresource: str = "",
    *,
    query: dict[str, str] | None = None,
    body: JsonObject | None = None,
    content_type: str = _JSON,
    label: str = "",
) -> Call:
    if not name and verb not in ("list", "watch", "create"):
        raise InvariantError(f"{verb} {resource}: no name is given")
    if resource.is_namespaced and not namespace and verb not in ("list", "watch"):
        raise InvariantError(f"{verb} {resource} {name or label}: no namespace is given")
    where = "/".join(filter(None, (namespace, name or label, subresource)))
    path = resource.path(quote(namespace, safe=""), quote(name, safe=""), subresource)
    return Call(f"{verb} {resource} {where}".strip(), method, path, query or {}, body, content_type)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    found = {"labelSelector": labels, "fieldSelector": fields}
    return {name: value for name, value in found.items() if value}


def _typed(resource: Resource, body: JsonObject) -> JsonObject:
    """With its kind, which items of a list lack; without what only the server writes."""
    meta: dict[str, Any] = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
    kind = {"apiVersion": resource.api_version, "kind": resource.kind}
    return {**body, **kind, "metadata": meta}


def _required(meta: JsonObject) -> str:
    return str(meta.get("name", ""))
