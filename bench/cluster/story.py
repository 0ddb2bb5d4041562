"""Tell the story of the demonstration, one act after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.status import Status

from agentd.cli.demo_machine import describe_machine
from agentd.vmm.qemu_open import probe_qemu_version
from bench.cluster import outage, pool, sessions, snapshot
from bench.cluster.leaks import Leaks
from bench.cluster.result import ClusterResult, Outage, Rebuild, Session, Snapshot
from bench.cluster.world import World
from bench.machine import read_commit
from controlplane.api.types import SandboxSnapshotStatus

END_S = 60.0


@dataclass(frozen=True)
class Plan:
    """How much of each. cold: at most so many sessions before the rebuilt set is active."""

    sessions: int = 10
    pool: int = 2
    cold: int = 3
    after: int = 2
    victim: str = "node-b"


@dataclass(frozen=True)
class Told:
    """What the acts returned."""

    snapshot: Snapshot
    sessions: tuple[Session, ...]
    refills: tuple[Session, ...]
    rebuild: Rebuild
    outage: Outage


class Story:
    """The acts, in order, each needing those before it."""

    def __init__(self, world: World, plan: Plan, console: Console) -> None:
        self._world = world
        self._plan = plan
        self._console = console
        self._begun_s = time.monotonic()

    def tell(self) -> Told:
        """All of it. Raises: what the acts raise."""
        ready_s = self.build()
        started = self.start_sessions()
        refills = self.refill()
        rebuild = self.rebuild(started[0].key)
        running = [*started, *rebuild.meanwhile, *rebuild.after]
        lost = self.lose_agent(running)
        status = self._status()
        with self._world.observer.changed:
            history = list(self._world.observer.history)
        self.end_sessions()
        shown = Snapshot(
            phase=status.phase.value,
            key=rebuild.new_key,
            ready_s=ready_s,
            counts=snapshot.counts_since(history, self._begun_s),
            left=self.delete_snapshot(),
        )
        return Told(shown, tuple(started), tuple(refills), rebuild, lost)

    def build(self) -> float:
        """Declare everything. Returns: seconds until every node can restore."""
        with self._step("CodeInterpreter: its SandboxTemplate"):
            snapshot.declare_runtime(self._world)
        with self._step("SnapshotClass, SandboxSnapshot: a machine is warmed on each node") as line:
            begun_s = time.monotonic()
            snapshot.declare_snapshot(self._world)
            snapshot.wait_status(
                self._world,
                "the snapshot Ready on all nodes",
                snapshot.is_whole,
                watch=lambda status: line.update(f"snapshot: {snapshot.describe(status)}"),
            )
        return time.monotonic() - begun_s

    def start_sessions(self) -> list[Session]:
        """Start some, one after another, so that each time is a session's own."""
        found: list[Session] = []
        with self._step(f"{self._plan.sessions} sessions, one after another") as line:
            for number in range(self._plan.sessions):
                found.append(sessions.start(self._world, snapshot.NAME))
                line.update(f"session {number + 1}: {_say(found[-1])}")
        with self._step("Python in each of them"):
            for session in found:
                self._check_python(session)
        return found

    def refill(self) -> list[Session]:
        """A pool, filled, taken from, filled again, then removed."""
        size = self._plan.pool
        with self._step(f"a SandboxWarmPool of {size}"):
            made = pool.fill(self._world, snapshot.NAME, size)
        with self._step("a SandboxClaim takes one; the pool fills up again"):
            made += pool.claim(self._world, size)
            pool.remove(self._world)
        return made

    def rebuild(self, old_key: str) -> Rebuild:
        """Edit what sessions run; start some until the rebuilt set serves them, then some more."""
        meanwhile: list[Session] = []
        before = self._status().ready_at

        def is_rebuilt(status: SandboxSnapshotStatus) -> bool:
            return status.ready_at != before and snapshot.is_whole(status)

        with self._step("the template is edited: cold starts until it is rebuilt") as line:
            begun_s = time.monotonic()
            snapshot.edit_runtime(self._world, "2")
            while len(meanwhile) < self._plan.cold and not is_rebuilt(self._status()):
                meanwhile.append(sessions.start(self._world, snapshot.NAME))
                line.update(f"meanwhile: {_say(meanwhile[-1])}")
            snapshot.wait_status(self._world, "the rebuilt set active on all nodes", is_rebuilt)
            rebuilt_s = time.monotonic() - begun_s
        with self._step("sessions of the rebuilt set"):
            after = [sessions.start(self._world, snapshot.NAME) for _ in range(self._plan.after)]
        return Rebuild(
            old_key=old_key,
            new_key=after[-1].key if after else "",
            rebuilt_s=rebuilt_s,
            meanwhile=tuple(meanwhile),
            after=tuple(after),
        )

    def lose_agent(self, running: list[Session]) -> Outage:
        """Kill an agentd, start it again."""
        node = self._world.nodes[self._plan.victim]
        with self._step(f"SIGKILL to agentd of {node.name}; then it is started again") as line:
            return outage.break_node(self._world, node, running, line.update)

    def end_sessions(self) -> None:
        """Delete every Sandbox, wait for the machines to end with them."""
        world = self._world
        with self._step("all sessions deleted, their machines gone"):
            with world.observer.changed:
                names = [one.metadata.name for one in world.observer.sandboxes.values()]
            for name in names:
                sessions.delete(world, name)
            world.cluster.wait_for(
                "no machine on any node",
                lambda: not any(node.machines() for node in world.nodes.values()),
                deadline_s=END_S,
            )

    def delete_snapshot(self) -> tuple[str, ...]:
        """Delete the snapshot. Returns: what of it is left, although it is gone."""
        with self._step("the snapshot deleted, with its artifacts and its record"):
            snapshot.delete(self._world)
            return snapshot.find_remains(self._world)

    def _status(self) -> SandboxSnapshotStatus:
        with self._world.observer.changed:
            status = snapshot.status_of(self._world)
        assert status is not None
        return status

    def _check_python(self, session: Session) -> None:
        said = sessions.run_python(outage.address(self._world, session), sessions.SUM)
        if said != "45":
            raise AssertionError(f"{session.name} says that the sum is {said!r}")

    @contextmanager
    def _step(self, text: str) -> Iterator[Line]:
        """Say what is going on while it goes on, what it led to, how long it took."""
        begun_s = time.monotonic()
        with self._console.status(text) as status:
            yield Line(self._console, status)
        took_s = time.monotonic() - begun_s
        self._console.print(f"[green]done[/] {text} [dim]({took_s:.1f} s)[/]", soft_wrap=True)


class Line:
    """What is said within one step: kept above the line that moves."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status

    def update(self, text: str) -> None:
        """Say what has happened."""
        self._console.print(f"     [dim]{text}[/]", soft_wrap=True)


def _say(session: Session) -> str:
    how = "restored" if session.restored else f"cold ({session.reason})"
    return f"{session.name} on {session.node}: {how}, first reply after {session.reply_ms:.0f} ms"


def compose(world: World, told: Told, leaks: Leaks, kubernetes: str) -> ClusterResult:
    """Everything about one run."""
    version = probe_qemu_version("qemu-system-x86_64")
    return ClusterResult(
        kubernetes=kubernetes,
        sandbox_version=world.sandbox_version,
        machine=describe_machine(version, commit=read_commit()),
        snapshot=told.snapshot,
        sessions=told.sessions,
        refills=told.refills,
        rebuild=told.rebuild,
        outage=told.outage,
        leaks=leaks,
    )
