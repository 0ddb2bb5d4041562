"""Start sessions in a cluster, look at each from every side that tells how it started."""

from __future__ import annotations

import time
from functools import partial

from agentd.errors import SnapStartError
from bench.cluster import sessions, snapshot
from bench.cluster.outage import address
from bench.cluster.result import Session
from bench.cluster.sessions import NAMESPACE, Begun
from bench.cluster.world import World
from bench.steal import read_steal_ms
from bench.validate.evidence import Start
from bench.validate.node_sessions import is_incoming, run_jobs
from bench.validate.plan_cluster import FELL_BACK, RESTORED
from controlplane.api import names
from controlplane.api.core import Sandbox

EVENT_S = 15.0
GONE_S = 90.0
_POLL_S = 0.2


def take(world: World, group: str) -> Start:
    """Start one session, wait for its first reply."""
    return finish(world, sessions.begin(world, snapshot.NAME), group)


def take_together(world: World, group: str, count: int) -> list[Start]:
    """Ask for all at once, wait for each by itself."""
    begun = [sessions.begin(world, snapshot.NAME) for _ in range(count)]
    return run_jobs([partial(finish, world, one, group) for one in begun], workers=count)


def finish(world: World, begun: Begun, group: str) -> Start:
    """What became of a session that was asked for."""
    at_s, stolen = time.time(), read_steal_ms()
    try:
        session = sessions.finish(world, begun)
        is_right = sessions.run_python(address(world, session), sessions.SUM) == "45"
    except SnapStartError as exc:
        return Start(
            name=begun.name, group=group, error=exc.code.value, message=exc.message, at_s=at_s
        )
    return describe(world, session, group, is_right, at_s, read_steal_ms() - stolen)


def describe(
    world: World, session: Session, group: str, is_right: bool, at_s: float, stolen_ms: float
) -> Start:
    """Everything that is known of a session that has answered."""
    return Start(
        name=session.name,
        group=group,
        node=session.node,
        said="fork" if session.restored else "cold",
        is_incoming=monitor_is_incoming(world, session),
        intent=session.key,
        reason="" if session.restored else session.reason,
        events=events_of(world, session.name, is_awaited=bool(session.key)),
        identity={
            "boot_id": session.reply.boot_id,
            "hostname": session.reply.hostname,
            "session_id": session.reply.session_id,
        },
        is_right=is_right,
        ready_ms=session.ready_ms,
        ms=session.reply_ms,
        at_s=at_s,
        steal_ms=stolen_ms,
    )


def monitor_is_incoming(world: World, session: Session) -> bool | None:
    """By the process table of this host, on which every node's machines run."""
    pid = world.nodes[session.node].machines().get(session.reply.session_id)
    return None if pid is None else is_incoming(pid)


def events_of(world: World, name: str, *, is_awaited: bool) -> tuple[str, ...]:
    """Reasons of the events about a session. is_awaited: until one says how it started."""
    path = f"/api/v1/namespaces/{NAMESPACE}/events?fieldSelector=involvedObject.name={name}"
    give_up = time.monotonic() + EVENT_S
    while True:
        found = {str(one["reason"]) for one in world.cluster.api.get(path)["items"]}
        if not is_awaited or found & {RESTORED, FELL_BACK} or time.monotonic() > give_up:
            return tuple(sorted(found))
        time.sleep(_POLL_S)


def end_sessions(world: World) -> None:
    """Delete every session; wait until none is there, and no Pod of one."""
    for sandbox in live_sessions(world):
        sessions.delete(world, sandbox.metadata.name)
    world.observer.wait("every session gone", lambda: not _pods(world), deadline_s=GONE_S)


def live_sessions(world: World) -> list[Sandbox]:
    """The Sandboxes that no build made."""
    with world.observer.changed:
        found = list(world.observer.sandboxes.values())
    return [one for one in found if not one.metadata.label(names.TEMPLATE_SANDBOX)]


def _pods(world: World) -> list[str]:
    """What is left of sessions; under `changed`."""
    builds = {
        one.metadata.name
        for one in world.observer.sandboxes.values()
        if one.metadata.label(names.TEMPLATE_SANDBOX)
    }
    return [name for _, name in [*world.observer.pods, *world.observer.sandboxes]
            if name not in builds]  # fmt: skip
