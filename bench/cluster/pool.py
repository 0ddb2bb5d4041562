"""Take a session out of a SandboxWarmPool, watch the pool fill up again."""

from __future__ import annotations

import time
from typing import Any

from bench.cluster.result import Session
from bench.cluster.sessions import NAMESPACE, READY_S, address_of, ask, describe, origin_of
from bench.cluster.world import World
from controlplane.api import names
from controlplane.api.core import Sandbox
from controlplane.kube.resource import sandbox_warm_pools
from controlplane.sessions.session import is_pool_made

POOL = "python"


def pool_object(template: str, replicas: int, version: str) -> dict[str, Any]:
    """A SandboxWarmPool of a template."""
    return {
        "apiVersion": sandbox_warm_pools(version).api_version,
        "kind": "SandboxWarmPool",
        "metadata": {"name": POOL, "namespace": NAMESPACE},
        "spec": {"replicas": replicas, "sandboxTemplateRef": {"name": template}},
    }


def claim_object(name: str, version: str) -> dict[str, Any]:
    """A SandboxClaim that takes one of the pool's Sandboxes (v1beta1)."""
    return {
        "apiVersion": f"{names.EXTENSIONS_GROUP}/{version}",
        "kind": "SandboxClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"warmPoolRef": {"name": POOL}},
    }


def fill(world: World, template: str, replicas: int) -> list[Session]:
    """Make the pool; returns its Sandboxes once all have answered."""
    world.cluster.apply([pool_object(template, replicas, world.sandbox_version)])
    return _await_members(world, replicas, known=frozenset())


def claim(world: World, replicas: int) -> list[Session]:
    """Take one out; returns what the pool made in its place once that has answered."""
    known = frozenset(one.metadata.uid for one in members(world))
    world.cluster.apply([claim_object("first", world.sandbox_version)])
    world.observer.wait(
        "a Sandbox of the pool taken by the claim",
        lambda: len(known - {one.metadata.uid for one in members(world)}) == 1,
        deadline_s=READY_S,
    )
    return _await_members(world, replicas, known=known)


def remove(world: World) -> None:
    """End the pool, the claim, what belongs to them."""
    version = world.sandbox_version
    for item in (pool_object("", 0, version), claim_object("first", version)):
        world.cluster.api.delete(world.cluster.api.path_of(item))
    world.observer.wait("the pool gone", lambda: not members(world), deadline_s=READY_S)


def members(world: World) -> list[Sandbox]:
    """The Sandboxes that the pool holds."""
    with world.observer.changed:
        found = list(world.observer.sandboxes.values())
    return [one for one in found if is_pool_made(one) and not one.metadata.is_terminating]


def _await_members(world: World, replicas: int, known: frozenset[str]) -> list[Session]:
    def all_ready() -> list[Sandbox] | None:
        found = members(world)
        return found if len(found) == replicas and all(one.is_ready for one in found) else None

    found = world.observer.wait("the pool's Sandboxes Ready", all_ready, deadline_s=READY_S)
    return [_describe(world, one) for one in found if one.metadata.uid not in known]


def _describe(world: World, sandbox: Sandbox) -> Session:
    """Its time counts from when it was first seen: nobody but the pool knows when it asked."""
    observer, uid = world.observer, sandbox.metadata.uid
    address = observer.wait("its address", lambda: address_of(world, sandbox), deadline_s=READY_S)
    reply = ask(address)
    replied_s = time.monotonic()
    observer.wait("its origin", lambda: origin_of(world, sandbox), deadline_s=READY_S)
    with observer.changed:
        seen_s, ready_s = observer.seen_at[uid], observer.ready_at[uid]
    return describe(world, sandbox, seen_s, ready_s, replied_s, reply)
