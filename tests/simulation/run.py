"""Live through one seed: disturb the world, heal it, see it come to rest, see it stay so."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from controlplane.errors import ControlPlaneError
from controlplane.kube.resource import SNAPSHOTS

from .ambient import simulated
from .ending import ready_and_current, why_not_at_rest
from .invariants import Violation
from .people import ACTIONS, People
from .processes import POLICY
from .world import World

_MOST_STEPS: Final = 40_000
# Longest way to rest: a deletion gives up waiting after 30 min, a spent budget opens after 30 min,
# a build takes 15 min, retired artifacts go a while after that, an orphan by the hourly sweep.
_REST_S: Final = 4 * 3600.0
_DAY_S: Final = 24 * 3600.0


@dataclass(frozen=True)
class Outcome:
    """What became of one seed. digest: of the whole trace."""

    seed: int
    steps: int
    faults: int
    actions: int
    restored: int
    digest: int
    seconds: float
    violations: tuple[Violation, ...] = ()
    tail: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Length:
    """actions: of people, at most. day: every so many seeds a quiet day follows."""

    actions: int = 26
    day: int = 8


def run_seed(seed: int, length: Length | None = None) -> Outcome:
    """One world from its beginning to its end. The same seed gives the same trace."""
    length = length or Length()
    world = World(seed)
    with simulated(world.loop, Random(seed + 1), world.invariants.planned):
        life = _Life(world, length)
        life.live()
        return Outcome(
            seed=seed,
            steps=world.steps,
            faults=world.network.faults + life.actions,
            actions=life.actions,
            restored=world.invariants.restored,
            digest=world.digest,
            seconds=world.loop.now_s,
            violations=tuple(world.invariants.found),
            tail=tuple(world.tail),
        )


class _Life:
    def __init__(self, world: World, length: Length) -> None:
        self._world = world
        self._length = length
        self._people = People(world)
        self.actions = 0

    @property
    def _is_broken(self) -> bool:
        return bool(self._world.invariants.found)

    def live(self) -> None:
        self._people.set_scene()
        self._world.loop.drain()
        self._disturb()
        if self._is_broken:
            return
        self._people.heal()
        self._come_to_rest()
        if not self._is_broken and self._world.seed % self._length.day == 0:
            self._stay_at_rest()

    def _disturb(self) -> None:
        world, random = self._world, self._world.random
        most = random.randint(self._length.actions // 3, self._length.actions)
        weights = self._choose_weights()
        self._choose_weather()
        pace = random.choice((10, 30, 60))
        while self.actions < most and not self._is_broken and world.steps < _MOST_STEPS:
            is_turn = random.random() < (1 / pace if world.is_busy else 0.3)
            if is_turn:
                self.actions += 1
                self._people.act(weights)
                world.loop.drain()
                world.invariants.after_step()
            elif not world.step():
                world.invariants.report("something is always going on", "nothing is due any more")

    def _choose_weights(self) -> dict[str, float]:
        """Each seed has habits of its own, so that rare things happen often somewhere."""
        random = self._world.random
        return {
            name: weight * random.choice((0.0, 0.3, 1.0, 1.0, 3.0))
            for name, weight in ACTIONS.items()
            if name != "session"
        } | {"session": ACTIONS["session"]}

    def _choose_weather(self) -> None:
        random, weather = self._world.random, self._world.network.weather
        badness = random.choice((0.0, 0.0, 0.01, 0.05))
        weather.lost_request = badness * random.random()
        weather.lost_reply = badness * random.random()
        weather.conflict = badness * random.random()
        weather.refused = random.choice((0.0, 0.0, 0.0, 0.3))
        weather.stale_read = badness * random.random()
        weather.broken_watch = badness * random.random()
        weather.repeated_event = badness * random.random()

    def _come_to_rest(self) -> None:
        world = self._world
        self._stop_rebuilding()
        end_s, reasons = world.loop.now_s + _REST_S, ["nothing looked at yet"]
        checked_s = world.loop.now_s + 60
        while not self._is_broken and world.loop.now_s < end_s:
            if world.steps > _MOST_STEPS:
                break
            if not world.is_busy and world.loop.now_s >= checked_s:
                reasons = why_not_at_rest(world)
                if not reasons:
                    self._start_sessions()
                    return
                checked_s = world.loop.now_s + 30
            world.step()
        for why in why_not_at_rest(world) if not self._is_broken else ():
            world.invariants.report("a healthy world comes to rest", why)
        if world.steps > _MOST_STEPS and not self._is_broken:
            world.invariants.report("a healthy world comes to rest", f"not in {_MOST_STEPS} steps")

    def _start_sessions(self) -> None:
        """At rest, who is Ready is restored from."""
        world = self._world
        for namespace, name in ready_and_current(world):
            before, session = world.invariants.restored, self._people.start_session(namespace)
            world.loop.drain()
            while world.is_busy and not self._is_broken:
                world.step()
            if session and world.invariants.restored == before and not self._is_broken:
                world.invariants.report(
                    "sessions restore from what is Ready", f"{namespace}/{name}"
                )

    def _stop_rebuilding(self) -> None:
        """What is rebuilt every hour never rests."""
        world = self._world
        for one in world.truth.snapshots.all():
            policy = one.spec.fork_policy
            if policy is None or not policy.rebuild_after:
                continue
            patch = {"spec": {"forkPolicy": {"rebuildAfter": None}}}
            meta = one.metadata
            try:
                world.cluster.merge(SNAPSHOTS, meta.name, patch, namespace=meta.namespace)
            except ControlPlaneError as exc:
                world.invariants.report("users can write", str(exc))

    def _stay_at_rest(self) -> None:
        """Nothing is written for a day."""
        world = self._world
        self._run_for(POLICY.recheck_problem_s + 60)  # a message counts nodes that wake nobody
        before, end_s = world.production_writes, world.loop.now_s + _DAY_S
        seen = (0, 0)
        while not self._is_broken and world.loop.now_s < end_s:
            world.step()
            state = (world.cluster.version, world.memory.writes)
            seen, is_news = state, state != seen
            if is_news and world.production_writes != before:
                world.invariants.report("a world at rest is not written to", world.tail[-1])

    def _run_for(self, seconds: float) -> None:
        world, end_s = self._world, self._world.loop.now_s + seconds
        while not self._is_broken and world.loop.now_s < end_s:
            world.step()
