"""The `snapctl snapshot` commands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from agentd.cli.cluster import Where, ask, cluster_options, list_all, read
from agentd.cli.progress import StageProgress
from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.cli.snapctl_why import by_time, describe_event
from agentd.cli.snapshots import (
    Rebuild,
    RebuildState,
    detail_table,
    judge_rebuild,
    list_table,
    status_of,
    task_table,
)
from agentd.cli.tables import print_table
from agentd.errors import ErrorCode, PermanentError, TransientError, UsageError
from controlplane.api import names
from controlplane.api.meta import ObjectMeta, TypedReference
from controlplane.api.types import (
    ForkPolicy,
    SandboxSnapshot,
    SandboxSnapshotSpec,
    SandboxSnapshotTask,
    SnapshotMode,
    SnapshotPhase,
)
from controlplane.api.validation import describe_problems, validate_snapshot
from controlplane.errors import NotFoundError
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import EVENTS, SNAPSHOTS, TASKS

_POLL_S: Final = 1.0


class _Detail(msgspec.Struct, frozen=True):
    snapshot: SandboxSnapshot
    tasks: list[SandboxSnapshotTask]
    events: list[str]


@click.group()
def snapshot() -> None:
    """Manage the SandboxSnapshots of a cluster: what its nodes keep warm."""


def _wait_options(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def add(command: Callable[..., None]) -> Callable[..., None]:
        limit = click.option(
            "--timeout", type=float, default=900.0, show_default=True, help="Seconds to wait."
        )
        return click.option("--wait", is_flag=True, help=f"Return when {what}.")(limit(command))

    return add


@snapshot.command(
    epilog="\b\nExample:\n  snapctl snapshot create python --template python --class qemu\n"
)
@click.argument("name")
@click.option("--template", required=True, help="The SandboxTemplate, same as a CodeInterpreter's.")
@click.option("--class", "class_name", required=True, help="The SnapshotClass.")
@click.option("--rebuild-after", metavar="DURATION", help="Such as 24h [default: never].")
@click.option("--keep-on-change", is_flag=True, help="Do not rebuild when the source changes.")
@_wait_options("it is ready on a node")
@cluster_options
@common_options
@pass_settings
def create(
    settings: Settings,
    where: Where,
    name: str,
    template: str,
    class_name: str,
    rebuild_after: str | None,
    keep_on_change: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Have a template's sandboxes snapshotted on every node that can."""
    wish = SandboxSnapshot(
        metadata=ObjectMeta(name=name, namespace=where.namespace),
        spec=SandboxSnapshotSpec(
            snapshot_mode=SnapshotMode.FORK,
            source_ref=TypedReference(
                api_group=names.EXTENSIONS_GROUP, kind="SandboxTemplate", name=template
            ),
            snapshot_class_name=class_name,
            fork_policy=ForkPolicy(
                rebuild_on_source_change=not keep_on_change, rebuild_after=rebuild_after
            ),
        ),
    )
    if problems := validate_snapshot(wish):
        text = describe_problems(problems)
        raise UsageError(ErrorCode.REQUEST_INVALID, f"creating snapshot {name!r}: {text}")
    body = msgspec.to_builtins(wish)
    made = ask(where, lambda api: _create(api, body))
    if wait:
        made = _wait(settings, where, name, Rebuild(None), timeout)
    settings.show(made)
    settings.say(f"snapshot {name} is {status_of(made).phase.value}")


@snapshot.command(epilog="\b\nExample:\n  snapctl snapshot ls --all-namespaces\n")
@click.option("--all-namespaces", "-A", is_flag=True, help="Those of every namespace.")
@cluster_options
@common_options
@pass_settings
def ls(settings: Settings, where: Where, all_namespaces: bool) -> None:
    """List the snapshots."""
    namespace = "" if all_namespaces else where.namespace
    bodies = ask(where, lambda api: list_all(api, SNAPSHOTS, namespace=namespace))
    found = [read(body, SandboxSnapshot) for body in bodies]
    settings.show({"snapshots": found}, lambda: list_table(found, datetime.now(UTC)))


@snapshot.command(epilog="\b\nExample:\n  snapctl snapshot describe python\n")
@click.argument("name")
@cluster_options
@common_options
@pass_settings
def describe(settings: Settings, where: Where, name: str) -> None:
    """Show one snapshot with its tasks and events."""
    found = ask(where, lambda api: _describe(api, name, where.namespace))
    now = datetime.now(UTC)
    settings.show(found, lambda: detail_table(found.snapshot, now))
    if found.tasks and not settings.as_json:
        print_table(task_table(found.tasks, now))
    for event in found.events:
        settings.say(event)


@snapshot.command(epilog="\b\nExample:\n  snapctl snapshot rebuild python --wait\n")
@click.argument("name")
@_wait_options("the new version serves")
@cluster_options
@common_options
@pass_settings
def rebuild(settings: Settings, where: Where, name: str, wait: bool, timeout: float) -> None:
    """Build a snapshot anew; the one there is serves until then."""
    before, after = ask(where, lambda api: _force(api, name, where.namespace))
    if wait:
        after = _wait(settings, where, name, Rebuild(status_of(before).ready_at), timeout)
    settings.show(after)
    settings.say(f"snapshot {name} {'is rebuilt' if wait else 'will be rebuilt'}")


@snapshot.command(epilog="\b\nExample:\n  snapctl snapshot rm python\n")
@click.argument("targets", nargs=-1, required=True, metavar="NAME...")
@_wait_options("the nodes have removed their artifacts")
@cluster_options
@common_options
@pass_settings
def rm(
    settings: Settings, where: Where, targets: tuple[str, ...], wait: bool, timeout: float
) -> None:
    """Delete snapshots; sessions that run go on."""
    wait_s = timeout if wait else None
    ask(where, lambda api: _remove(api, targets, where.namespace, wait_s, settings.say))
    settings.show({"removed": list(targets)})


async def _create(api: KubeApi, body: dict[str, object]) -> SandboxSnapshot:
    return read(await api.create(SNAPSHOTS, body), SandboxSnapshot)


async def _describe(api: KubeApi, name: str, namespace: str) -> _Detail:
    found = read(await api.get(SNAPSHOTS, name, namespace), SandboxSnapshot)
    uid = found.metadata.uid
    label = f"{names.SNAPSHOT_UID}={uid}"
    tasks = await list_all(api, TASKS, namespace=namespace, labels=label)
    events = await list_all(api, EVENTS, namespace=namespace, fields=f"involvedObject.uid={uid}")
    lines = [f"{event.get('type', '')} {describe_event(event)}" for event in by_time(events)]
    return _Detail(found, [read(task, SandboxSnapshotTask) for task in tasks], lines)


async def _force(
    api: KubeApi, name: str, namespace: str
) -> tuple[SandboxSnapshot, SandboxSnapshot]:
    before = read(await api.get(SNAPSHOTS, name, namespace), SandboxSnapshot)
    asked_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    patch = {"metadata": {"annotations": {names.FORCE_REBUILD: asked_at}}}
    after = await api.merge(SNAPSHOTS, name, patch, namespace=namespace)
    return before, read(after, SandboxSnapshot)


async def _remove(
    api: KubeApi,
    targets: Sequence[str],
    namespace: str,
    wait_s: float | None,
    say: Callable[[str], None],
) -> None:
    """wait_s: for all of them together; None: not at all."""
    end = time.monotonic() + (wait_s or 0.0)
    uids = {}
    for name in targets:
        found = read(await api.get(SNAPSHOTS, name, namespace), SandboxSnapshot)
        uids[name] = found.metadata.uid
        await api.delete(SNAPSHOTS, name, namespace=namespace, uid=uids[name])
        if wait_s is None:
            say(f"removing {name}")
    for name, uid in uids.items() if wait_s is not None else ():
        await _until_gone(api, name, uid, namespace, end)
        say(f"removed {name}")


async def _until_gone(api: KubeApi, name: str, uid: str, namespace: str, end: float) -> None:
    while True:
        try:
            found = read(await api.get(SNAPSHOTS, name, namespace), SandboxSnapshot)
        except NotFoundError:
            return
        if found.metadata.uid != uid:
            return
        _check_time(end, f"snapshot {name!r} is still being deleted", name)
        await asyncio.sleep(_POLL_S)


def _wait(
    settings: Settings, where: Where, name: str, begun: Rebuild, limit_s: float
) -> SandboxSnapshot:
    with StageProgress(is_quiet=settings.as_json) as bar:
        return ask(where, lambda api: _follow(api, where, name, begun, limit_s, bar))


async def _follow(
    api: KubeApi, where: Where, name: str, begun: Rebuild, limit_s: float, bar: StageProgress
) -> SandboxSnapshot:
    end = time.monotonic() + limit_s
    while True:
        found = read(await api.get(SNAPSHOTS, name, where.namespace), SandboxSnapshot)
        state, status = judge_rebuild(found, begun), status_of(found)
        if state is RebuildState.READY:
            return found
        if state is RebuildState.FAILED:
            kept = status.phase is SnapshotPhase.READY
            raise PermanentError(
                ErrorCode.TEMPLATE_BUILD_FAILED,
                f"building snapshot {name!r}: {status.message or 'no node could'}",
                hint=("the version before serves on; " if kept else "")
                + f"see `snapctl snapshot describe {name}`",
            )
        begun = replace(begun, was_building=begun.was_building or state is RebuildState.BUILDING)
        bar.update(state.value, status.ready_node_count, status.target_node_count, status.message)
        _check_time(end, f"snapshot {name!r} is not ready: {state.value}", name)
        await asyncio.sleep(_POLL_S)


def _check_time(end: float, what: str, name: str) -> None:
    if time.monotonic() > end:
        hint = f"it goes on; watch it with `snapctl snapshot describe {name}`"
        raise TransientError(ErrorCode.DEADLINE_EXCEEDED, what, hint=hint)
