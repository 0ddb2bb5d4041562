"""What happens to programs, disks, connections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentd.errors import ErrorCode
from controlplane.errors import UnavailableError

if TYPE_CHECKING:
    pass

from .scene import Scene


class Faults(Scene):
    """Each action is one change of the world."""

    def do_crash_agent(self) -> str | None:
        name = self._some(sorted(self._world.agents))
        if name is None:
            return None
        self._world.start_agent(name)
        return str(name)

    def do_silence_agent(self) -> str | None:
        """The agent dies and stays away; its machine runs on."""
        name = self._some(sorted(self._world.agents))
        if name is None:
            return None
        self._world.stop_agent(name)
        return str(name)

    def do_wake_agent(self) -> str | None:
        world = self._world
        silent = set(world.machines) - set(world.agents) - world.down
        name = self._some(sorted(one for one in silent if world.truth.nodes.get(one)))
        if name is None:
            return None
        world.start_agent(name)
        return str(name)

    def do_driver_fails(self) -> str | None:
        machine = self._some(list(self._world.machines.values()))
        codes = (
            ErrorCode.VMM_FAILED,
            ErrorCode.GUEST_CONTAMINATED,
            ErrorCode.TEMPLATE_BUILD_FAILED,
        )
        machine.failures += [self._random.choice(codes)] * self._random.choice((1, 1, 3, 40))
        return str(machine.name)

    def do_engine(self) -> str | None:
        """The engine breaks, or is repaired."""
        machine = self._some(list(self._world.machines.values()))
        machine.is_engine_well = not machine.is_engine_well
        return f"{machine.name} {'well' if machine.is_engine_well else 'broken'}"

    def do_lose_artifact(self) -> str | None:
        """A disk loses, or damages, an artifact."""
        machine = self._some(list(self._world.machines.values()))
        key = self._some(sorted(machine.artifacts))
        if key is None:
            return None
        if self._random.random() < 0.5:
            del machine.artifacts[key]
        else:
            one = machine.artifacts[key]
            machine.artifacts[key] = replace(one, facts=replace(one.facts, is_ready=False))
        self._world.lost.add((machine.name, key))
        self._world.disk_changed()
        return f"{machine.name} {key}"

    def do_lease(self) -> str | None:
        """A session runs from an artifact for a while."""
        machine = self._some(list(self._world.machines.values()))
        key = self._some(sorted(machine.artifacts))
        if key is None:
            return None
        machine.leases[key] += 1
        delay_s = self._random.choice((30.0, 600.0, 3000.0))

        def end() -> None:
            machine.leases[key] = max(0, machine.leases[key] - 1)

        self._world.loop.call_later(delay_s, end)
        return f"{machine.name} {key} for {delay_s:.0f} s"

    # Programs, connections, stores

    def do_crash_leader(self) -> str | None:
        """The leader dies or is deposed; the next one starts."""
        self._world.start_leader()
        return None

    def do_crash_admission(self) -> str | None:
        self._world.start_admission()
        return None

    def do_outage(self) -> str | None:
        """The store or the API server is away for a while, for one or for all."""
        world, random = self._world, self._random
        peer = random.choice(("store", "store", "kube"))
        alive = [one.process.name for one in (world.leader, world.admission) if one is not None]
        alive += [agent.process.name for agent in world.agents.values()]
        whom = (random.choice(["*", *alive]), peer)
        weather = world.network.weather
        weather.away.add(whom)
        seconds = random.choice((1.0, 10.0, 100.0, 400.0))
        world.loop.call_later(seconds, lambda: weather.away.discard(whom))
        return f"{whom[0]} of {peer} for {seconds:.0f} s"

    def do_break_watches(self) -> str | None:
        world = self._world
        world.network.break_watches(world.cluster, UnavailableError("watch: connection reset"))
        return None

    def do_compact(self) -> str | None:
        """The API server forgets its history; who lags must list again."""
        self._world.cluster.compact()
        self._world.network.break_watches(self._world.cluster, None)
        return None

    def do_slow(self) -> str | None:
        """Some programs are slow now."""
        world = self._world
        kinds = ("leader", "admission", "agent")
        world.slow = set(self._random.sample(kinds, self._random.randint(0, 2)))
        return ",".join(sorted(world.slow))

    def do_live(self) -> str | None:
        """Nobody does anything for a while; the world goes on."""
        world, seconds = self._world, self._random.choice((5.0, 60.0, 400.0, 1500.0))
        end_s = world.loop.now_s + seconds
        while world.loop.now_s < end_s and not world.invariants.found:
            if not world.step():
                break
        return f"{seconds:.0f} s"

    def do_wait(self) -> str | None:
        seconds = self._random.choice((1.0, 5.0, 20.0, 70.0, 300.0))
        self._world.let_time_pass(seconds)
        return f"{seconds:.0f} s"
