"""Kill one node's agentd, see what goes on without it, start it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from agentd.errors import SnapStartError
from bench.cluster import snapshot
from bench.cluster.node import DemoNode
from bench.cluster.result import Outage, Session
from bench.cluster.sessions import NAMESPACE, address_of, ask, execute
from bench.cluster.world import World

NOTICE_S = 120.0
RECOVER_S = 180.0
CARRIED_ON_S = 60.0
_KEPT = "/workspace/kept"

Say = Callable[[str], None]


def address(world: World, session: Session) -> str:
    """Where a session answers."""
    with world.observer.changed:
        return address_of(world, world.observer.sandboxes[(NAMESPACE, session.name)])


def leave_mark(world: World, session: Session) -> None:
    """Have a session write down its own name."""
    execute(address(world, session), ["/bin/sh", "-c", f"echo {session.name} > {_KEPT}"])


def has_mark(world: World, session: Session) -> bool:
    """It is the same machine, with what it wrote. False too if it does not answer."""
    try:
        there = address(world, session)
        kept = execute(there, ["/bin/sh", "-c", f"read kept < {_KEPT}; echo $kept"])
        return kept.strip() == session.name and ask(there) == session.reply
    except SnapStartError:
        return False


def is_carried_on(world: World, session: Session) -> bool:
    """It has its mark soon: a new agentd takes up each session by itself."""
    end_s = time.monotonic() + CARRIED_ON_S
    while not (found := has_mark(world, session)) and time.monotonic() < end_s:
        time.sleep(0.2)
    return found


def break_node(world: World, node: DemoNode, sessions: Sequence[Session], say: Say) -> Outage:
    """The whole story of one agentd that dies. Raises: TransientError when counts never tell."""
    theirs = [one for one in sessions if one.node == node.name]
    others = [one for one in sessions if one.node != node.name]
    for session in theirs:
        leave_mark(world, session)
    before = node.machines()
    node.kill()
    killed_s = time.monotonic()
    answered = count_answers(node, {one.reply.session_id: one for one in theirs})
    say(f"{answered} of {len(theirs)} machines answer by their own channel, without an agentd")
    elsewhere = sum(ask(address(world, one)) == one.reply for one in others)
    snapshot.wait_status(
        world,
        f"the artifact of {node.name} unavailable",
        lambda status: status.unavailable_node_count == 1,
        deadline_s=NOTICE_S,
    )
    noticed_s = time.monotonic() - killed_s
    say(f"noticed after {noticed_s:.0f} s: {_told(world)}")
    node_ready = _ready(world, node.name)
    alive = _same(before, node.machines())
    recovered_s = _recover(world, node)
    say(f"agentd is back; whole after {recovered_s:.0f} s: {_told(world)}")
    return Outage(
        node=node.name,
        node_ready=node_ready,
        machines=len(theirs),
        alive=min(alive, len(theirs)),
        answered=answered,
        noticed_s=noticed_s,
        recovered_s=recovered_s,
        same=sum(is_carried_on(world, one) for one in theirs),
        others=elsewhere,
    )


def count_answers(node: DemoNode, machines: Mapping[str, Session]) -> int:
    """How many guests answer by the channel that agentd held."""
    count = 0
    for machine in machines:
        with suppress(SnapStartError):
            count += node.ask_machine(machine).gate == "open"
    return count


def _recover(world: World, node: DemoNode) -> float:
    begun_s = time.monotonic()
    node.start()
    snapshot.wait_status(world, "all nodes ready again", snapshot.is_whole, deadline_s=RECOVER_S)
    return time.monotonic() - begun_s


def _same(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    return sum(after.get(machine) == pid for machine, pid in before.items())


def _ready(world: World, name: str) -> str:
    with world.observer.changed:
        condition = world.observer.nodes[("", name)].ready
    return condition.status if condition is not None else ""


def _told(world: World) -> str:
    with world.observer.changed:
        status = snapshot.status_of(world)
    return snapshot.describe(status) if status is not None else "no status"
