"""Time calls of our adapters, in turn with those of a floor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from agentd.kuasar.access import SandboxerAccess
from agentd.kuasar.admin_json import AdminJson
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form
from agentd.kuasar.cri import Cri
from agentd.kuasar.pb import ssi_pb2
from agentd.kuasar.ssi import SNAPSHOTS, Ssi
from agentd.providers.driver import CreateRequest, SnapshotOwner
from agentd.providers.kuasar import KuasarDriver
from agentd.providers.ledger import Ledger
from agentd.settings import Kuasar
from bench.kuasar.floor import RawClient
from bench.kuasar.standin import KEY
from controlplane.api.types import SnapshotMode

CROWD: Final = 64
_WARM: Final = 20
_TICK_S: Final = 0.001
# A node's tasks are looked at every few seconds; 64 callers that rest so long are a storm.
_PAUSE_S: Final = 0.1


async def json_calls(
    directory: Path, raw: RawClient, pairs: int
) -> tuple[list[float], list[float]]:
    """List templates by the adapter, by the raw client. Returns: microseconds of each."""
    place = directory / "json"
    client = AdminJson(AdminSocket(place / "admin.sock"), Cri(place / "cri.sock"))
    ours, floor = [], []
    for number in range(-_WARM, pairs):
        begun_ns = time.perf_counter_ns()
        await client.list()
        took_us = (time.perf_counter_ns() - begun_ns) / 1e3
        floor_us = raw.call_us()
        if number >= 0:
            ours.append(took_us)
            floor.append(floor_us)
    return ours, floor


async def grpc_calls(directory: Path, pairs: int) -> tuple[list[float], list[float]]:
    """List snapshots by the adapter, by grpc.aio alone; a connection for each call."""
    place = directory / "grpc"
    client = Ssi(place / "service.sock", AdminSocket(place / "admin.sock"))
    ours, floor = [], []
    for number in range(-_WARM, pairs):
        begun_ns = time.perf_counter_ns()
        await client.list()
        between_ns = time.perf_counter_ns()
        await _plain_list(place / "service.sock")
        ended_ns = time.perf_counter_ns()
        if number >= 0:
            ours.append((between_ns - begun_ns) / 1e3)
            floor.append((ended_ns - between_ns) / 1e3)
    return ours, floor


async def _plain_list(path: Path) -> None:
    options = (("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        ask = channel.unary_unary(
            f"/{SNAPSHOTS}/ListSandboxSnapshots",
            request_serializer=ssi_pb2.ListSandboxSnapshotsRequest.SerializeToString,
            response_deserializer=ssi_pb2.ListSandboxSnapshotsResponse.FromString,
        )
        await ask(ssi_pb2.ListSandboxSnapshotsRequest(), timeout=30)


@dataclass
class Crowd:
    """Milliseconds of creates alone and among inspects; by how much ticks of the loop were late.

    Of each tick without the time for which it waited for a processor; idle_ms: during the creates
    alone, when nothing of ours holds the loop.
    """

    alone_ms: list[float] = field(default_factory=list)
    crowded_ms: list[float] = field(default_factory=list)
    idle_ms: list[float] = field(default_factory=list)
    held_ms: list[float] = field(default_factory=list)
    inspects: list[int] = field(default_factory=list)


async def crowded_creates(directory: Path, form: Form, count: int) -> Crowd:
    """Creates by the driver, every other one with CROWD callers that inspect all the while."""
    place = directory / form.name.lower()
    settings = Kuasar(
        enabled=True,
        admin_socket=place / "admin.sock",
        grpc_socket=place / "service.sock",
        cri_socket=place / "cri.sock",
    )
    ledger = Ledger(place / "ledger")
    driver = KuasarDriver(
        SandboxerAccess(settings), ledger, name=settings.provider, create_s=settings.create_s
    )
    found = Crowd()
    try:
        for number in range(count):
            async with _ticking(found.idle_ms):
                found.alone_ms.append(await _create(driver, f"alone-{number}"))
            await _among_inspects(driver, f"crowd-{number}", found)
    finally:
        await driver.close()
    return found


async def _create(driver: KuasarDriver, key: str) -> float:
    owner = SnapshotOwner("c", "default", "python", "u")
    request = CreateRequest("uid-0", "default", "p", key, "h", SnapshotMode.FORK, owner)
    begun_s = time.perf_counter()
    await driver.create(request)
    return 1e3 * (time.perf_counter() - begun_s)


async def _among_inspects(driver: KuasarDriver, key: str, found: Crowd) -> None:
    done = 0

    async def inspect() -> None:
        nonlocal done
        while True:
            await driver.inspect(KEY.format(0))
            done += 1
            await asyncio.sleep(_PAUSE_S)

    crowd = [asyncio.create_task(inspect()) for _ in range(CROWD)]
    try:
        async with _ticking(found.held_ms):
            found.crowded_ms.append(await _create(driver, key))
        found.inspects.append(done)
    finally:
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)


@asynccontextmanager
async def _ticking(held_ms: list[float]) -> AsyncIterator[None]:
    task = asyncio.create_task(_tick(held_ms))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _tick(held_ms: list[float]) -> None:
    """How much later than it asked for this task is run: what else holds the loop."""
    while True:
        begun_s, waited_ms = time.perf_counter(), _processor_wait_ms()
        await asyncio.sleep(_TICK_S)
        late_ms = 1e3 * (time.perf_counter() - begun_s - _TICK_S)
        held_ms.append(late_ms - (_processor_wait_ms() - waited_ms))


def _processor_wait_ms() -> float:
    """Time this thread spent on a run queue (Linux sched-stats.rst, /proc/PID/schedstat)."""
    return int(Path("/proc/thread-self/schedstat").read_text("ascii").split()[1]) / 1e6
