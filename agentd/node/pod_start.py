"""Find out what one Pod's machine needs before it is started."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from agentd.engine.engine import Engine
from agentd.engine.trace import Tracer
from agentd.errors import SnapStartError
from agentd.image.store import Image, list_images, load_image
from agentd.node.addresses import Addresses
from agentd.node.forwarders import Forwarders
from agentd.node.pod_env import Environment, Source, names_auth_key, resolve_env, sources_of
from agentd.node.pod_restore import Cold, Fork, choose_start
from agentd.node.pod_spec import HANDLER, PodPlan, Refusal, find_image, refuse_image
from agentd.node.pod_types import Pod
from agentd.providers.driver import SnapshotDriver
from controlplane.api.builds import is_marked_build
from controlplane.api.core import RuntimeClass, Sandbox
from controlplane.errors import NotFoundError
from controlplane.kube.api import KubeApi
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.resource import CONFIG_MAPS, RUNTIME_CLASSES, SECRETS, Resource


@dataclass(frozen=True)
class PodHost:
    """What all Pods of this node share. images: reference to key or directory. now: UTC."""

    kube: KubeApi
    engine: Engine
    driver: SnapshotDriver
    addresses: Addresses
    forwarders: Forwarders
    events: EventRecorder
    tracer: Tracer
    cluster: str
    host_ip: str
    sandboxes: Resource
    images: Mapping[str, str]
    image_cache_dir: Path
    now: Callable[[], datetime]


class NoImageError(Exception):
    """The image is not in the store, and nothing ever pulls it."""


class PodStart:
    """Reads what bears on the start of one Pod. Every method raises ControlPlaneError."""

    def __init__(self, host: PodHost, pod: Pod, plan: PodPlan) -> None:
        self._host = host
        self._pod = pod
        self._plan = plan

    async def refuse(self) -> Refusal | None:
        """Why its RuntimeClass is not one for machines."""
        name = self._pod.spec.runtime_class_name
        if not name:
            return None
        body = await self._host.kube.get(RUNTIME_CLASSES, name)
        handler = msgspec.convert(body, RuntimeClass, strict=False).handler
        if handler == HANDLER:
            return None
        return Refusal(
            "SnapStartUnsupported",
            f"RuntimeClass {name!r} has handler {handler!r}, this node only runs {HANDLER!r}",
        )

    async def is_build(self) -> bool:
        """It asks for a closed gate, and its Sandbox is marked as a build."""
        owner = self._pod.metadata.controller
        if not self._plan.has_gate or owner is None or owner.kind != "Sandbox":
            return False
        namespace = self._pod.metadata.namespace
        body = await self._host.kube.get(self._host.sandboxes, owner.name, namespace)
        meta = msgspec.convert(body, Sandbox, strict=False).metadata
        return meta.uid == owner.uid and is_marked_build(meta)

    async def environment(self, pod_ip: str) -> Environment | Refusal:
        """Its variables, its key."""
        container = self._plan.container
        found = {source: await self._read(source) for source in sources_of(container)}
        return resolve_env(self._pod, container, found, pod_ip=pod_ip, host_ip=self._host.host_ip)

    async def _read(self, source: Source) -> dict[str, str] | None:
        is_secret = source.kind == "Secret"
        resource = SECRETS if is_secret else CONFIG_MAPS
        namespace = self._pod.metadata.namespace
        try:
            body = await self._host.kube.get(resource, source.name, namespace)
        except NotFoundError:
            return None
        data: dict[str, str] = body.get("data") or {}
        if not is_secret:
            return data
        return {
            key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()
        }

    async def source(self) -> Fork | Cold:
        """How it starts; an artifact that cannot be looked at is a reason for a cold start."""
        key = self._plan.key
        try:
            artifact = await self._host.driver.inspect(key) if key else None
        except SnapStartError as exc:
            return Cold("artifact_unusable", f"looking at artifact {key!r}: {exc}")
        namespace = self._pod.metadata.namespace
        return choose_start(key, artifact, namespace=namespace, cluster=self._host.cluster)

    async def image(self) -> Image | Refusal:
        """The image it boots, or why that is of no use. Raises: NoImageError, SnapStartError."""
        image = await asyncio.to_thread(self._find_image)
        if names_auth_key(self._plan.container):
            return refuse_image(self._plan.container.image, image.manifest) or image
        return image

    def _find_image(self) -> Image:
        cache_dir, reference = self._host.image_cache_dir, self._plan.container.image
        keys = [image.key for image in list_images(cache_dir)]
        # Of several none is the obvious one, and what a hash stands for must not change by itself.
        default = keys[0] if len(keys) == 1 else ""
        found = find_image(reference, self._host.images, default)
        if not found:
            raise NoImageError(_why_no_image(reference, len(keys)))
        return load_image(found, cache_dir)


def _why_no_image(reference: str, count: int) -> str:
    if count > 1 and find_image(reference, {}, "any"):
        why = f"could be any of {count} images in this node's image store"
    else:
        why = "is not in this node's image store, and is never pulled"
    return f"image {reference!r} {why}; name it in node.images"
