"""Find the restore intents of sessions, as often as is asked for, and say what each call took.

The whole of `find_restore_intent`: index, one GET from a real Redis, hash of the session's pod
spec, decision; nothing is cached. With 1, 100, 10,000 snapshots, in turn within one run, beside its
two dear parts alone; then with a store that is dead, that is silent, and behind an open breaker.

Each call tells what the clock said, and for how long this process or Redis was ready to run while
others had the processors, which is the machine's part in a late call.

Needs redis-server, or redis-check-rdb, in PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from controlplane.api import names
from controlplane.api.core import Sandbox, SandboxTemplate
from controlplane.api.manifest import Artifact, ArtifactSet, Manifest, SetReference
from controlplane.api.meta import OwnerReference
from controlplane.api.types import ArtifactPhase, SandboxSnapshot, SnapshotClass
from controlplane.sessions.decision import Decision, StartReason
from controlplane.sessions.index import SessionIndex
from controlplane.sessions.lookup import IntentSources, find_restore_intent
from controlplane.sessions.session import SessionStart, session_of
from controlplane.snapshots.hash import compute_hash, fork_source, session_source
from controlplane.store.breaker import BreakerState, BreakerStore
from controlplane.store.endpoint import Credentials, parse_endpoint
from controlplane.store.redis import RedisStore
from controlplane.store.store import ArtifactStore, OwnerKey

SIZES: Final = (1, 100, 10_000)
NODES: Final = 10
NAMESPACES: Final = 20
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)

POD_SPEC: Final[dict[str, Any]] = {
    "runtimeClassName": "microvm",
    "terminationGracePeriodSeconds": 10,
    "containers": [
        {
            "name": "code-interpreter",
            "image": "registry.example/code-interpreter@sha256:" + "ab" * 32,
            "args": ["--port=8080", "--workspace=/workspace"],
            "env": [
                {"name": "AUTH_PUBLIC_KEY", "value": "-----BEGIN PUBLIC KEY-----" + "A" * 400},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                *({"name": f"SETTING_{n}", "value": f"value-{n}"} for n in range(8)),
            ],
            "ports": [{"containerPort": 8080, "protocol": "TCP"}],
            "resources": {
                "limits": {"cpu": "1", "memory": "1Gi"},
                "requests": {"cpu": "100m", "memory": "128Mi"},
            },
            "volumeMounts": [{"name": "scratch", "mountPath": "/workspace"}],
            "readinessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1},
            "securityContext": {"allowPrivilegeEscalation": False, "runAsUser": 1000},
        }
    ],
    "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}],
    "tolerations": [{"key": "snapstart", "operator": "Exists", "effect": "NoSchedule"}],
}
CLASS: Final = msgspec.convert(
    {
        "metadata": {"name": "qemu"},
        "spec": {"providerName": "snapstart.qemu.org", "supportedSnapshotModes": ["Fork"]},
    },
    SnapshotClass,
)


@dataclass(frozen=True)
class Population:
    """Snapshots with their manifests; one session that wants one of them."""

    name: str
    index: SessionIndex
    session: SessionStart
    manifests: dict[OwnerKey, Manifest]
    wanted: OwnerKey


def make_population(count: int, *, all_in_one: bool = False) -> Population:
    """So many, spread over namespaces and templates, or all of the session's own template."""
    index, manifests, wanted = SessionIndex(), {}, None
    index.put_class(CLASS)
    for number in range(count):
        template = _template(0 if all_in_one else number)
        snapshot = _snapshot(number, template)
        meta = snapshot.metadata
        owner = OwnerKey(meta.namespace, meta.name, meta.uid)
        index.put_template(template)
        index.put_snapshot(snapshot)
        manifests[owner] = _manifest(snapshot, compute_hash(fork_source(template, CLASS)))
        # The newest of one template, else one in the middle.
        if wanted is None and number == (0 if all_in_one else count // 2):
            wanted = owner, template
    assert wanted is not None
    name = f"{count} snapshots of one template" if all_in_one else f"{count} snapshots"
    owner, template = wanted
    session = _session(template)
    return Population(name, index, session, manifests, owner)


def _template(number: int) -> SandboxTemplate:
    name = f"python-{number // NAMESPACES:04}"
    spec = copy.deepcopy(POD_SPEC)
    meta = {"name": name, "namespace": f"team-{number % NAMESPACES}", "uid": f"template-{number}"}
    return msgspec.convert(
        {"metadata": meta, "spec": {"podTemplate": {"spec": spec}}}, SandboxTemplate
    )


def _snapshot(number: int, template: SandboxTemplate) -> SandboxSnapshot:
    meta = {
        "name": f"{template.metadata.name}-ready-{number}",
        "namespace": template.metadata.namespace,
        "uid": f"00000000-0000-4000-8000-{number:012}",
        "creationTimestamp": (NOW - timedelta(seconds=number)).isoformat(),
    }
    source = {
        "apiGroup": names.EXTENSIONS_GROUP,
        "kind": "SandboxTemplate",
        "name": template.metadata.name,
    }
    spec = {"snapshotMode": "Fork", "sourceRef": source, "snapshotClassName": "qemu"}
    body = {"metadata": meta, "spec": spec, "status": {"phase": "Ready"}}
    return msgspec.convert(body, SandboxSnapshot)


def _manifest(snapshot: SandboxSnapshot, digest: str) -> Manifest:
    meta, key = snapshot.metadata, f"{snapshot.metadata.name[:30]}-fork-g1-r1"
    artifacts = tuple(
        Artifact(
            provider_name=CLASS.spec.provider_name,
            node_name=f"node-{node}",
            phase=ArtifactPhase.READY,
            snapshot_key=key,
            snapshot_hash=digest,
            created_at=NOW,
            started_at=NOW,
        )
        for node in range(NODES)
    )
    made = ArtifactSet(snapshot_key=key, snapshot_hash=digest, artifacts=artifacts, started_at=NOW)
    owner = OwnerReference(
        api_version=names.API_VERSION, kind="SandboxSnapshot", name=meta.name, uid=meta.uid
    )
    return Manifest(
        owner_ref=owner, artifact_sets={key: made}, active_set_ref=SetReference(snapshot_key=key)
    )


def _session(template: SandboxTemplate) -> SessionStart:
    """As the webhook reads it from a request's JSON."""
    meta = {"name": "s", "annotations": {names.SANDBOX_TEMPLATE_REF: template.metadata.name}}
    spec = {"podTemplate": {"spec": POD_SPEC}}
    raw = msgspec.json.encode({"metadata": meta, "spec": spec})
    return session_of(msgspec.json.decode(raw, type=Sandbox), template.metadata.namespace)


@contextlib.asynccontextmanager
async def redis_server() -> AsyncIterator[tuple[str, int]]:
    """A real server on a Unix socket, without persistence; its URL with its process id."""
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if program is None:
        raise SystemExit("bench.lookup: no redis-server in PATH; install the package redis-tools")
    with tempfile.TemporaryDirectory(prefix="kv-") as directory:
        path = Path(directory) / "s"
        # One program for both; what it is called by says which one it is.
        server_program = Path(directory) / "redis-server"
        server_program.symlink_to(program)
        argv = [str(server_program), "--port", "0", "--unixsocket", str(path), "--save", ""]
        server = await asyncio.create_subprocess_exec(
            *argv, "--dir", directory, stdout=subprocess.DEVNULL
        )
        try:
            await _listening(path)
            yield f"unix://{path}", server.pid
        finally:
            server.kill()
            await server.wait()


async def _listening(path: Path) -> None:
    for _ in range(500):
        try:
            _, writer = await asyncio.open_unix_connection(str(path))
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
    raise SystemExit("bench.lookup: redis-server does not listen")


@dataclass(frozen=True)
class Sample:
    """Microseconds of one call. waited_us: of them, for a processor."""

    wall_us: float
    waited_us: float


async def time_calls(
    calls: dict[str, Callable[[], Awaitable[object]]], rounds: int, pids: Sequence[int]
) -> dict[str, list[Sample]]:
    """Every call of every round; the calls take turns, each round begins with another.

    pids: whose waiting for a processor is taken to be part of a call's.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in calls}
    order = list(calls)
    for number in range(rounds):
        turn = number % len(order)
        for name in (*order[turn:], *order[:turn]):
            before = processor_wait_us(pids)
            begun = time.perf_counter_ns()
            await calls[name]()
            wall_us = (time.perf_counter_ns() - begun) / 1e3
            samples[name].append(Sample(wall_us, processor_wait_us(pids) - before))
    return samples


def processor_wait_us(pids: Sequence[int]) -> float:
    """Time spent on run queues by the main threads (Linux sched-stats.rst, /proc/PID/schedstat)."""
    texts = (Path(f"/proc/{pid}/schedstat").read_text("ascii") for pid in pids)
    return sum(int(text.split()[1]) for text in texts) / 1e3


def finder(
    population: Population, store: ArtifactStore, reason: StartReason
) -> Callable[[], Awaitable[Decision]]:
    """One lookup that must come to this result."""
    sources = IntentSources(population.index, store)

    async def find() -> Decision:
        decision = await find_restore_intent(sources, population.session)
        if decision.reason is not reason:
            raise SystemExit(f"bench.lookup: {population.name}: {decision}, expected {reason}")
        return decision

    return find


async def measure_present(url: str, pid: int, rounds: int) -> dict[str, list[Sample]]:
    """Lookups that restore, with what they are made of."""
    store = BreakerStore(RedisStore(parse_endpoint(url, Credentials())), time.monotonic)
    populations = [make_population(count) for count in SIZES]
    populations.append(make_population(SIZES[-1], all_in_one=True))
    restored = StartReason.RESTORED_INTENT
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        f"lookup, {one.name}": finder(one, store, restored) for one in populations
    }
    first = populations[0]

    async def bare_get() -> object:
        return await store.get(first.wanted)

    async def bare_hash() -> object:
        return hash_alone(first)

    calls |= {"bare GET": bare_get, "hash alone": bare_hash}
    try:
        await fill(store, populations)
        pids = (os.getpid(), pid)
        await time_calls(calls, 50, pids)  # connections, caches of the processor
        return await time_calls(calls, rounds, pids)
    finally:
        await store.close()


def hash_alone(population: Population) -> str:
    """The session's hash, as a lookup makes it."""
    session = population.session
    template = population.index.template(session.namespace, session.template)
    assert template is not None
    return compute_hash(session_source(session.spec, template, CLASS))


async def fill(store: ArtifactStore, populations: Sequence[Population]) -> None:
    """Store every manifest in an empty store; populations share some."""
    manifests = {
        key: one for population in populations for key, one in population.manifests.items()
    }
    for key, manifest in manifests.items():
        await store.put(key, manifest, None)


async def measure_absent(directory: Path, rounds: int) -> dict[str, list[Sample]]:
    """Lookups with nobody there, or somebody who is silent; each then with an open breaker."""
    population = make_population(1)
    silent = directory / "silent"
    server = await asyncio.start_unix_server(_say_nothing, str(silent))
    samples: dict[str, list[Sample]] = {}
    async with server:
        for name, path, reason in (
            ("dead store", directory / "dead", StartReason.STORE_ERROR),
            ("silent store", silent, StartReason.STORE_TIMEOUT),
        ):
            url = f"unix://{path}"
            fresh, opened = await _measure_one_absent(population, url, reason, rounds)
            samples[f"lookup, {name}"] = fresh
            samples[f"lookup, {name}, breaker open"] = opened
    return samples


async def _measure_one_absent(
    population: Population, url: str, reason: StartReason, rounds: int
) -> tuple[list[Sample], list[Sample]]:
    pids = (os.getpid(),)
    fresh: list[Sample] = []
    opened: list[Sample] = []
    for _ in range(max(10, rounds // 100)):
        redis = RedisStore(parse_endpoint(url, Credentials()))
        store = BreakerStore(redis, time.monotonic)
        for _ in range(3):
            fresh += (await time_calls({"": finder(population, store, reason)}, 1, pids))[""]
        if store.state is not BreakerState.OPEN:
            raise SystemExit("bench.lookup: the breaker did not open")
        find = finder(population, store, StartReason.STORE_ERROR)
        opened += (await time_calls({"": find}, 100, pids))[""]
        await store.close()
    return fresh, opened


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()
