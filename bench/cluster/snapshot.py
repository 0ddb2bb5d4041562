"""Declare a snapshot, follow it."""

from __future__ import annotations

from collections.abc import Callable

import redis

from agentd.client.calls import list_templates
from bench.cluster import install
from bench.cluster.observer import StatusAt
from bench.cluster.result import Counts
from bench.cluster.sessions import NAMESPACE
from bench.cluster.world import World
from controlplane.api.types import ConditionType, SandboxSnapshotStatus, SnapshotPhase
from controlplane.kube.resource import CODE_INTERPRETERS, SNAPSHOTS, sandbox_templates
from tests.kube.api import Object
from tests.kube.objects import MERGE, exists

NAME = "python"
TEMPLATE_S = 90.0
BUILD_S = 300.0
DELETED_S = 90.0
Watch = Callable[[SandboxSnapshotStatus], None]


def declare_runtime(world: World) -> None:
    """Apply the CodeInterpreter, wait for the SandboxTemplate that is kept for it."""
    world.cluster.apply([install.example("code-interpreter")])
    path = sandbox_templates(world.sandbox_version).path(NAMESPACE, NAME)
    world.cluster.wait_for(
        "the SandboxTemplate", lambda: exists(world.cluster, path), deadline_s=TEMPLATE_S
    )


def declare_snapshot(world: World) -> None:
    """Apply the SnapshotClass with the SandboxSnapshot."""
    names = ("snapshotclass-qemu", "sandbox-snapshot")
    world.cluster.apply(install.example(name) for name in names)


def edit_runtime(world: World, revision: str) -> Object:
    """Change what sessions run: another variable. Returns: the SandboxTemplate made of it."""
    api, variable = world.cluster.api, {"name": "REVISION", "value": revision}
    patch = {"spec": {"template": {"environment": [variable]}}}
    api.call("PATCH", CODE_INTERPRETERS.path(NAMESPACE, NAME), patch, content_type=MERGE)
    path = sandbox_templates(world.sandbox_version).path(NAMESPACE, NAME)

    def is_taken_over() -> bool:
        (container,) = api.get(path)["spec"]["podTemplate"]["spec"]["containers"]
        return variable in (container.get("env") or ())

    world.cluster.wait_for("the edit in the SandboxTemplate", is_taken_over, deadline_s=TEMPLATE_S)
    return api.get(path)


def delete(world: World) -> None:
    """Delete the snapshot, wait until it is gone. Raises: TransientError."""
    key = (NAMESPACE, NAME)
    world.cluster.api.delete(SNAPSHOTS.path(NAMESPACE, NAME))
    world.observer.wait(
        "the snapshot gone", lambda: key not in world.observer.snapshots, deadline_s=DELETED_S
    )


def find_remains(world: World) -> tuple[str, ...]:
    """Artifacts on nodes, records in the store; once the snapshot is gone there are none."""
    artifacts = [
        f"{node.name}: {template.name}"
        for node in world.nodes.values()
        for template in node.send(list_templates()).templates
    ]
    with redis.Redis.from_url(world.redis.url, password=world.store["REDIS_PASSWORD"]) as client:
        return (*artifacts, *(key.decode() for key in client.keys("*")))


def status_of(world: World) -> SandboxSnapshotStatus | None:
    """The status as last seen, under `changed`."""
    found = world.observer.snapshots.get((NAMESPACE, NAME))
    return found.status if found is not None else None


def is_rebuilding(status: SandboxSnapshotStatus) -> bool:
    """A replacement is being built."""
    return _has(status, ConditionType.REBUILDING)


def is_stale(status: SandboxSnapshotStatus) -> bool:
    """Its source has changed since the active set was built."""
    return _has(status, ConditionType.STALE)


def is_whole(status: SandboxSnapshotStatus) -> bool:
    """Every node can restore, from the source as it is, and nothing is being replaced."""
    return (
        status.phase is SnapshotPhase.READY
        and status.ready_node_count == status.target_node_count
        and not is_rebuilding(status)
        and not is_stale(status)
    )


def wait_status(
    world: World,
    what: str,
    is_reached: Callable[[SandboxSnapshotStatus], bool],
    *,
    deadline_s: float = BUILD_S,
    watch: Watch = lambda _status: None,
) -> SandboxSnapshotStatus:
    """Wait for a status. watch: told of every new one meanwhile. Raises: TransientError."""
    told: list[SandboxSnapshotStatus] = []

    def find() -> SandboxSnapshotStatus | None:
        status = status_of(world)
        if status is not None and (not told or told[-1] != status):
            told.append(status)
            watch(status)
        return status if status is not None and is_reached(status) else None

    return world.observer.wait(what, find, deadline_s=deadline_s)


def counts_since(history: list[StatusAt], begun_s: float) -> tuple[Counts, ...]:
    """The statuses seen, as what changed in them that a person counts."""
    found: list[Counts] = []
    for seen in history:
        status = seen.status
        one = Counts(
            at_s=round(seen.at_s - begun_s, 3),
            phase=status.phase.value,
            target=status.target_node_count,
            creating=status.creating_node_count,
            ready=status.ready_node_count,
            failed=status.failed_node_count,
            unavailable=status.unavailable_node_count,
            rebuilding=is_rebuilding(status),
        )
        if not found or _timeless(found[-1]) != _timeless(one):
            found.append(one)
    return tuple(found)


def describe(status: SandboxSnapshotStatus) -> str:
    """In one line."""
    counts = {
        "creating": status.creating_node_count,
        "ready": status.ready_node_count,
        "failed": status.failed_node_count,
        "unavailable": status.unavailable_node_count,
    }
    some = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    rebuilding = ", rebuilding" if is_rebuilding(status) else ""
    return f"{status.phase.value} ({some or 'no nodes'} of {status.target_node_count}){rebuilding}"


def _timeless(one: Counts) -> tuple[object, ...]:
    return tuple(getattr(one, name) for name in one.__struct_fields__ if name != "at_s")


def _has(status: SandboxSnapshotStatus, kind: ConditionType) -> bool:
    return any(one.type == kind.value and one.status == "True" for one in status.conditions)
