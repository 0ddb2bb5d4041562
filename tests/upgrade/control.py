"""Replace the control plane of a real cluster while sessions run, and new ones begin.

The node's agent is of the one build or the other: so each is older than the control plane once.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import redis

from agentd.errors import SnapStartError
from agentd.image import Image
from bench.cluster import sessions, snapshot
from bench.cluster.node import DemoNode
from bench.cluster.world import World
from bench.demo import IMAGES

from .builds import Build

# As long as tests of faults give it (tests/integration/cluster/parts.py).
_SETTLED_S: Final = 180.0


@dataclass
class ControlTally:
    """What came of it. begun: sessions, of which so many were restored."""

    replaced: int = 0
    calls: int = 0
    begun: int = 0
    restored: int = 0
    failures: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)


class Caller(threading.Thread):
    """Runs code in one session by its Pod's address, again and again."""

    def __init__(self, address: str, is_over: threading.Event) -> None:
        super().__init__(name=f"caller-{address}", daemon=True)
        self._address = address
        self._is_over = is_over
        self.calls = 0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._is_over.is_set() and not self.failures:
            try:
                sessions.ask(self._address)
                self.calls += 1
            except SnapStartError as exc:
                self.failures.append(f"{self._address}, call {self.calls}: {exc}")


def run_control(
    image: Image, builds: tuple[Build, Build], *, agent: Build, running: int, replacements: int
) -> ControlTally:
    """running: sessions that are there all the time. builds: as of agentd. agent: of the node."""
    tally = ControlTally()
    world = World(image, IMAGES, nodes=("node-a",))
    with world:
        _use_agent(world.nodes["node-a"], agent)
        _run(world, builds, running, replacements, tally)
    assert world.leaks is not None
    if world.leaks.count:
        tally.leaks.append(str(world.leaks))
    return tally


def _use_agent(node: DemoNode, build: Build) -> None:
    """Have that build's agentd serve the node from now on."""
    node.stop()
    node.server.env["PYTHONPATH"] = str(build.root)
    node.start()
    loaded = Path(f"/proc/{node.server.pid}/maps").read_text()
    assert f"{build.root}/agentd/_core" in loaded, f"it is not {build.name} that runs"


def _run(
    world: World, builds: tuple[Build, Build], running: int, replacements: int, tally: ControlTally
) -> None:
    snapshot.declare_runtime(world)
    snapshot.declare_snapshot(world)
    snapshot.wait_status(world, "the snapshot Ready", snapshot.is_whole)
    opened = [sessions.begin(world, snapshot.NAME) for _ in range(running)]
    for one in opened:
        sessions.finish(world, one)
    addresses = [_address(world, one.name) for one in opened]
    records = _records(world)
    is_over = threading.Event()
    callers = [Caller(address, is_over) for address in addresses]
    for caller in callers:
        caller.start()
    try:
        for number in range(1, replacements + 1):
            _replace(world, builds[number % 2], tally)
            tally.replaced = number
    finally:
        is_over.set()
        for caller in callers:
            caller.join()
    tally.calls = sum(caller.calls for caller in callers)
    tally.failures += [one for caller in callers for one in caller.failures]
    if _records(world) != records:
        tally.leaks.append(f"records of the store: {sorted(_records(world) ^ records)}")


def _replace(world: World, build: Build, tally: ControlTally) -> None:
    """A session is begun while nobody decides; under the next control plane they restore again."""
    replica = world.replicas[0]
    replica.stop()
    meanwhile = sessions.begin(world, snapshot.NAME)
    replica.server.env["PYTHONPATH"] = str(build.root)
    _check_found(replica.server.env, build)
    replica.start()
    _use(world, meanwhile, tally)
    if not _restores_again(world, tally):
        tally.failures.append(f"{build.name}: sessions start cold for {_SETTLED_S:g} s")


def _restores_again(world: World, tally: ControlTally) -> bool:
    """Until its view has caught up, sessions may start cold."""
    deadline_s = time.monotonic() + _SETTLED_S
    while time.monotonic() < deadline_s:
        if _use(world, sessions.begin(world, snapshot.NAME), tally):
            return True
    return False


def _use(world: World, begun: sessions.Begun, tally: ControlTally) -> bool:
    """Wait for a session, end it. Returns: whether it was restored."""
    is_restored = sessions.finish(world, begun).restored
    tally.begun += 1
    tally.restored += is_restored
    sessions.delete(world, begun.name)
    return is_restored


def _check_found(env: Mapping[str, str], build: Build) -> None:
    """The interpreter finds that build's control plane, not the one installed beside it."""
    ask = [sys.executable, "-c", "import controlplane; print(controlplane.__file__)"]
    found = Path(subprocess.check_output(ask, env=env, cwd="/", text=True).strip())
    assert found.parent == build.root / "controlplane", f"{found} is not of {build.name}"


def _address(world: World, name: str) -> str:
    with world.observer.changed:
        return sessions.address_of(world, world.observer.sandboxes[(sessions.NAMESPACE, name)])


def _records(world: World) -> frozenset[bytes]:
    password = world.store["REDIS_PASSWORD"]
    with redis.Redis.from_url(world.redis.url, password=password) as client:
        return frozenset(client.keys("*"))
