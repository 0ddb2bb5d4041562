"""Hold the whole simulated world; one step is one effect of somebody."""

from __future__ import annotations

import itertools
import zlib
from collections import deque
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

import msgspec

from agentd.providers.driver import CreateRequest
from controlplane.api.core import Pod
from controlplane.api.manifest import Manifest
from controlplane.api.meta import JsonObject
from controlplane.store.store import OwnerKey, Stored
from tests.fakes.kube_cluster import FakeCluster
from tests.fakes.store import MemoryStore

from .driver import Machine, Physical
from .invariants import Invariants
from .loop import Process, make_loop
from .network import Network
from .processes import Admission, Agent, ControlPlane, Silent
from .sandboxer import Sandboxer
from .truth import Truth

START: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_TAIL: Final = 400
# For so long a request of a process that died may still be on its way.
LATE_S: Final = 8.0


class World:
    """seed: decides everything."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.loop = make_loop()
        self.steps = 0
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self.digest = 0
        self._numbers = itertools.count(1)
        self.cluster = FakeCluster(
            now=lambda: self.now, new_uid=lambda: f"uid-{next(self._numbers)}", history_limit=300
        )
        self.memory = MemoryStore()
        self.truth = Truth(self.cluster)
        self.network = Network(self.loop, self.random, self.trace)
        self.quiet = Silent()
        self.machines: dict[str, Machine] = {}
        self.down: set[str] = set()
        self.bad_images: set[str] = set()
        self.hung: set[str] = set()  # UIDs of Pods that never start
        self.slow: set[str] = set()
        self.lost: set[tuple[str, str]] = set()  # (node, key): by its disk, unnoticed
        self.has_runtime_class = False
        self.restarts = 0
        self.invariants = Invariants(self)
        self.sandboxer = Sandboxer(self)
        self.leader: ControlPlane | None = None
        self.admission: Admission | None = None
        self.agents: dict[str, Agent] = {}

    # Clock, trace

    @property
    def now(self) -> datetime:
        """UTC."""
        return START + timedelta(seconds=self.loop.now_s)

    def trace(self, text: str) -> None:
        """Write down what happened; the digest tells two runs apart."""
        line = f"{self.steps:6d} {self.loop.now_s:10.3f} {text}"
        self.digest = zlib.crc32(line.encode(), self.digest)
        self.tail.append(line)

    # Processes

    def start_leader(self) -> None:
        """A control plane takes the lead; the one before stops, its last request may come late."""
        if self.leader is not None and self.leader.process.is_alive:
            self.network.crash(self.leader.process, late_s=LATE_S)
        self.restarts += 1
        self.leader = ControlPlane(self, self.restarts)
        self.trace(f"{self.leader.process} leads")

    def start_admission(self) -> None:
        """A replica that answers for sessions."""
        if self.admission is not None:
            self.network.crash(self.admission.process, late_s=0.0)
        self.restarts += 1
        self.admission = Admission(self, self.restarts)

    def start_agent(self, name: str) -> None:
        """A node's agent starts; its predecessor dies."""
        self.stop_agent(name)
        self.restarts += 1
        self.agents[name] = Agent(self, self.machines[name], self.restarts)
        self.trace(f"{self.agents[name].process} starts")

    def stop_agent(self, name: str) -> None:
        """A node's agent dies."""
        agent = self.agents.pop(name, None)
        if agent is not None:
            self.network.crash(agent.process, late_s=LATE_S)
            self.trace(f"{agent.process} dies")

    # Time

    def step(self) -> bool:
        """One effect, or time passes to the next thing that falls due. Returns: False: nothing."""
        self.steps += 1
        if not self._act():
            next_s = self.loop.next_timer_s()
            if next_s is None:
                return False
            self.loop.advance(next_s)
        self.loop.drain()
        self.invariants.after_step()
        return True

    def let_time_pass(self, seconds: float) -> None:
        """Although somebody has something to do: everything takes its time."""
        self.loop.advance(self.loop.now_s + seconds)
        self.loop.drain()
        self.invariants.after_step()

    @property
    def is_busy(self) -> bool:
        """Something is under way that needs no time."""
        return bool(self.network.ops or self.network.streams or self.sandboxer.has_work)

    def _act(self) -> bool:
        """Let a random one of all that could happen now happen."""
        network = self.network
        total = len(network.ops) + len(network.streams) + self.sandboxer.has_work
        for _ in range(3):
            if not total:
                return False
            at = self.random.randrange(total)
            if at < len(network.ops):
                op = network.ops[at]
                if self._is_held_up(op.process):
                    continue
                network.perform(op)
                return True
            at -= len(network.ops)
            if at < len(network.streams):
                stream = next(itertools.islice(network.streams, at, None))
                if self._is_held_up(stream.process):
                    continue
                network.deliver(stream)
                return True
            self.sandboxer.turn()
            return True
        if self.loop.next_timer_s() is None:
            self.slow.clear()
            return True
        return False

    def _is_held_up(self, process: Process) -> bool:
        return process.name.split("-")[0] in self.slow and self.random.random() < 0.9

    # What drivers ask

    def pod_by_uid(self, uid: str) -> Pod | None:
        """As it is in truth."""
        found = self.truth.pods.by_index("uid", uid)
        return found[0] if found else None

    def duration_s(self) -> float:
        """How long the next seal takes."""
        return self.random.choice((0.5, 3.0, 20.0, 90.0))

    def create_called(self, machine: Machine, request: CreateRequest) -> None:
        """See Host."""
        self.trace(f"{machine.name}: create {request.key} from Pod {request.pod_name}")
        self.invariants.create_called(machine, request)

    def sealed(self, machine: Machine, request: CreateRequest, made: Physical) -> None:
        """See Host."""
        self.invariants.sealed(machine, request, made)

    def disk_changed(self) -> None:
        """See Host."""
        self.invariants.is_disk_changed = True

    # What the store tells

    def read(self, process: Process, key: OwnerKey, stored: Stored | None, is_stale: bool) -> None:
        """See StoreAudit."""
        self.invariants.store_read(process, key, stored, is_stale)

    def put(
        self,
        process: Process,
        key: OwnerKey,
        before: bytes | None,
        version: str | None,
        manifest: Manifest,
    ) -> None:
        """See StoreAudit."""
        self.invariants.store_put(process, key, before, version, manifest)

    def deleted(
        self, process: Process, key: OwnerKey, before: bytes | None, version: str | None
    ) -> None:
        """See StoreAudit."""
        self.invariants.store_deleted(key, before, version)

    # Counting

    @property
    def production_writes(self) -> int:
        """Writes of production code to the API server, signs of life apart, and to the store."""
        kubes = [one.kube for one in (self.leader, self.admission) if one is not None]
        kubes += [agent.kube for agent in self.agents.values()]
        writes = sum(kube.client.writes for kube in kubes)
        leases = sum(
            count
            for kube in kubes
            for (verb, plural), count in kube.client.counts.items()
            if plural == "leases" and verb in ("create", "replace")
        )
        return writes - leases + self.memory.writes


def decoded(body: JsonObject, kind: type[Any]) -> Any:
    """An object as a type."""
    return msgspec.convert(body, kind, strict=False)
