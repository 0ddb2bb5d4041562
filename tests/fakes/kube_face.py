"""The shape of a `KubeApi` over one method that asks."""

from __future__ import annotations

import abc
from typing import Any

from controlplane.api.meta import JsonObject
from controlplane.kube.api import Page
from controlplane.kube.resource import Resource


class KubeFace(abc.ABC):
    """Every request of a `KubeApi` but `watch`, as one call of `_call`."""

    @abc.abstractmethod
    async def _call(self, op: str, resource: Resource | None, *args: Any, **kwargs: Any) -> Any:
        """Ask the API server in memory for the method `op` of `FakeCluster`."""

    async def get(self, resource: Resource, name: str, namespace: str = "") -> JsonObject:
        result: JsonObject = await self._call("get", resource, name, namespace)
        return result

    async def list(self, resource: Resource, **kwargs: str) -> Page:
        result: Page = await self._call("list", resource, **kwargs)
        return result

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        result: JsonObject = await self._call("create", resource, body)
        return result

    async def replace(
        self, resource: Resource, body: JsonObject, *, subresource: str = ""
    ) -> JsonObject:
        result: JsonObject = await self._call("replace", resource, body, subresource=subresource)
        return result

    async def merge(
        self,
        resource: Resource,
        name: str,
        patch: JsonObject,
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> JsonObject:
        result: JsonObject = await self._call(
            "merge", resource, name, patch, namespace=namespace, subresource=subresource
        )
        return result

    async def apply(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        manager: str,
        subresource: str = "",
        force: bool = False,
    ) -> JsonObject:
        result: JsonObject = await self._call(
            "apply", resource, body, manager=manager, subresource=subresource, force=force
        )
        return result

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        grace_s: int | None = None,
    ) -> None:
        await self._call("delete", resource, name, namespace=namespace, uid=uid, grace_s=grace_s)

    async def preferred_version(self, group: str) -> str:
        result: str = await self._call("preferred_version", None, group)
        return result

    async def served_versions(self, group: str) -> tuple[str, ...]:
        result: tuple[str, ...] = await self._call("served_versions", None, group)
        return result
