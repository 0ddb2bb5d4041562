"""A driver without a provider behind it: it keeps book of what would have been snapshotted."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from agentd.errors import ErrorCode, SnapStartError, TransientError, UsageError
from agentd.providers.driver import CreateRequest, LocalArtifact
from agentd.providers.local import is_made_for
from controlplane.api import names
from controlplane.api.core import Pod
from controlplane.api.types import SnapshotMode

from .loop import Process
from .network import Network

# What machines say when they fail is long.
LONG = "and so on, " * 40
FORK = frozenset({SnapshotMode.FORK})


@dataclass(frozen=True)
class Content:
    """What a machine runs, as far as it matters to who restores it."""

    image: str
    env: tuple[tuple[str, str], ...]
    marks: tuple[tuple[str, str], ...] = ()

    def fits(self, other: Content) -> bool:
        """A session of this content may run in a machine of that one."""
        return (self.image, self.env) == (other.image, other.env)


@dataclass(frozen=True)
class Physical:
    """An artifact on a disk. facts: as the driver tells it."""

    facts: LocalArtifact
    content: Content
    pod_uid: str


@dataclass
class Machine:
    """A node's hardware: what outlives its programs. incarnation: which Node object it is."""

    name: str
    providers: frozenset[str]
    artifacts: dict[str, Physical] = field(default_factory=dict)
    failures: list[ErrorCode] = field(default_factory=list)
    is_engine_well: bool = True
    creating: Counter[str] = field(default_factory=Counter)
    running: set[str] = field(default_factory=set)  # UIDs of Pods
    captured: set[str] = field(default_factory=set)
    leases: Counter[str] = field(default_factory=Counter)


class Host(Protocol):
    """What a driver asks of the world."""

    @property
    def now(self) -> datetime:
        """UTC."""

    def pod_by_uid(self, uid: str) -> Pod | None:
        """As it is in truth."""

    def create_called(self, machine: Machine, request: CreateRequest) -> None:
        """The invariants look on."""

    def sealed(self, machine: Machine, request: CreateRequest, made: Physical) -> None:
        """The invariants look on."""

    def disk_changed(self) -> None:
        """Something on a disk is new or gone."""

    def duration_s(self) -> float:
        """How long the next seal takes."""


class ModelDriver:
    """One provider on one node: a model, nothing is booted, nothing is snapshotted."""

    def __init__(
        self, provider: str, machine: Machine, process: Process, network: Network, host: Host
    ) -> None:
        self._provider = provider
        self._machine = machine
        self._process = process
        self._network = network
        self._host = host
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        """See SnapshotDriver."""
        return self._provider

    async def capabilities(self) -> frozenset[SnapshotMode]:
        """See SnapshotDriver."""
        return FORK if self._machine.is_engine_well else frozenset()

    async def create(self, request: CreateRequest) -> LocalArtifact:
        """See SnapshotDriver: looks, seals for a while, makes the artifact at once in the end."""
        machine = self._machine
        machine.creating[request.pod_uid] += 1
        self._host.create_called(machine, request)
        try:
            async with self._turn:
                return await self._create(request)
        finally:
            machine.creating[request.pod_uid] -= 1

    async def _create(self, request: CreateRequest) -> LocalArtifact:
        found: LocalArtifact | None = await self._do("create", request.key, self._begin, request)
        if found is not None:
            return found
        await asyncio.sleep(self._host.duration_s())
        made: LocalArtifact = await self._do("seal", request.key, self._seal, request)
        return made

    async def delete(self, key: str) -> bool:
        """See SnapshotDriver."""
        result: bool = await self._do("delete", key, self._delete, key)
        return result

    async def list(self) -> list[LocalArtifact]:
        """See SnapshotDriver."""
        return [self._view(one) for one in self._machine.artifacts.values()]

    async def inspect(self, key: str) -> LocalArtifact | None:
        """See SnapshotDriver."""
        self._check_engine("inspect")
        found = self._machine.artifacts.get(key)
        return self._view(found) if found else None

    async def _do(self, verb: str, key: str, effect: Any, argument: Any) -> Any:
        return await self._network.call(
            self._process,
            "driver",
            f"driver {verb} {key}",
            lambda: effect(argument),
            is_write=verb != "create",
        )

    def _check_engine(self, what: str) -> None:
        if not self._machine.is_engine_well:
            raise SnapStartError(ErrorCode.VMM_FAILED, f"{what}: the engine is not well")

    def _view(self, found: Physical) -> LocalArtifact:
        return replace(found.facts, leases=self._machine.leases[found.facts.key])

    def _begin(self, request: CreateRequest) -> LocalArtifact | None:
        self._check_engine("create")
        found = self._machine.artifacts.get(request.key)
        if found is not None and is_made_for(self._view(found), request):
            return self._view(found)
        if found is not None:
            self._delete(request.key)
        self._machine_of(request)
        return None

    def _machine_of(self, request: CreateRequest) -> Pod:
        pod = self._host.pod_by_uid(request.pod_uid)
        if pod is None or request.pod_uid not in self._machine.running:
            raise UsageError(ErrorCode.SESSION_ENDED, f"create {request.key}: no such machine here")
        return pod

    def _seal(self, request: CreateRequest) -> LocalArtifact:
        self._check_engine("seal")
        pod = self._machine_of(request)
        if self._machine.failures:
            code = self._machine.failures.pop(0)
            message = f"seal {request.key}: {code.value}; {LONG}"
            if code in (ErrorCode.VMM_FAILED, ErrorCode.NO_MEMORY):
                raise TransientError(code, message)
            raise SnapStartError(code, message)
        facts = LocalArtifact(
            key=request.key,
            snapshot_hash=request.snapshot_hash,
            mode=request.mode,
            is_ready=True,
            leases=0,
            created_at=self._host.now,
            owner=request.owner,
        )
        made = Physical(facts, content_of(pod), request.pod_uid)
        self._machine.artifacts[request.key] = made
        self._host.sealed(self._machine, request, made)
        self._machine.captured.add(request.pod_uid)
        self._host.disk_changed()
        return self._view(made)

    def _delete(self, key: str) -> bool:
        self._check_engine("delete")
        if self._machine.leases[key]:
            raise UsageError(ErrorCode.TEMPLATE_IN_USE, f"delete {key}: machines need it")
        is_there = self._machine.artifacts.pop(key, None) is not None
        self._host.disk_changed()
        return is_there


def content_of(pod: Pod) -> Content:
    """What a Pod's machine holds."""
    marks = {
        key: value
        for key, value in (pod.metadata.annotations or {}).items()
        if key.startswith(("provider.example/", names.KUASAR_READY_VERSION))
    }
    return content_of_spec(pod.spec, marks)


def content_of_spec(spec: dict[str, Any], marks: dict[str, str] | None = None) -> Content:
    """The same of a pod spec; the gate is the build's own, not what it holds."""
    container = spec["containers"][0]
    env = tuple(
        (entry["name"], entry.get("value", ""))
        for entry in container.get("env") or ()
        if entry["name"] != names.SESSION_GATE_ENV
    )
    return Content(container["image"], env, tuple(sorted((marks or {}).items())))
