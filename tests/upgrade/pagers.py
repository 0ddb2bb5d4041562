"""Replace the page server under machines that touch, write, give back and check their memory."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.integration.pager.service import Service, service_of
from tests.torture.census import list_fds
from tests.torture.programs import build_programs
from tests.torture.standin import MachineLostError, StandIn

from .builds import Build

_TOUCHES: Final = 300
_OPTIONS: Final = ((), ("--no-hold",))  # whose monitor keeps its userfaultfd, whose does not
_PROTOCOLS: Final = ("firecracker", "memfd")
_SETTLE_S: Final = 20.0
_MEMFD: Final = "/memfd:standin-image (deleted)"


@dataclass
class PagerTally:
    """What came of it. wrong: bytes."""

    machines: int = 0
    replaced: int = 0
    rounds: int = 0
    wrong: int = 0
    lost: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)


async def run_pagers(
    builds: tuple[Build, Build], *, machines: int, replacements: int
) -> PagerTally:
    """builds: the first begins and ends, if replacements are even."""
    tally = PagerTally(machines)
    programs = await asyncio.to_thread(build_programs)
    with tempfile.TemporaryDirectory(prefix="upgrade-") as made:
        async with service_of(programs, Path(made), has_keeper=True) as service:
            await _run(service, builds, replacements, tally)
    return tally


async def _run(
    service: Service,
    builds: tuple[Build, Build],
    replacements: int,
    tally: PagerTally,
) -> None:
    await _begin(service, builds[0])
    service.image()
    before = list_fds(service.host.pid)
    opened = [await _machine(service, number) for number in range(tally.machines)]
    is_over = asyncio.Event()
    tasks = [asyncio.create_task(_live(one, tally, is_over)) for one in opened]
    for number in range(1, replacements + 1):
        rounds = tally.rounds
        while tally.rounds < rounds + tally.machines and not tally.lost:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await service.end(signal.SIGTERM)
        await _begin(service, builds[number % 2])
        tally.replaced = number
    is_over.set()
    await asyncio.gather(*tasks)
    for one in opened:
        await one.quit()
    tally.leaks = await _find_leaks(service, before, opened)


async def _begin(service: Service, build: Build) -> None:
    service.host.program = build.pager
    await service.begin()


async def _machine(service: Service, number: int) -> StandIn:
    protocol = _PROTOCOLS[number % len(_PROTOCOLS)]
    options = _OPTIONS[number // len(_PROTOCOLS) % len(_OPTIONS)]
    machine = await service.machine(f"vm-{number}", protocol, *options)
    await service.served(f"vm-{number}")
    return machine


async def _live(machine: StandIn, tally: PagerTally, is_over: asyncio.Event) -> None:
    try:
        while not is_over.is_set():
            tally.wrong += (await machine.say(f"random {_TOUCHES}")).wrong
            tally.rounds += 1
        tally.wrong += (await machine.say("verify")).wrong
    except MachineLostError as exc:
        tally.lost.append(str(exc))


async def _find_leaks(service: Service, before: Counter[str], opened: list[StandIn]) -> list[str]:
    """Descriptors of the page server and its keeper, journals, sockets."""
    host = service.host
    async with asyncio.timeout(_SETTLE_S):
        while (await host.client.stats()).machines:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)  # our own connection is closed in its next round
    assert host.keeper is not None
    host.keeper.hear()
    # An image stays open for a while, for the next machine that comes from it.
    images = Counter({str(service.image()): 1, _MEMFD: len(opened)})
    return [
        *(f"descriptor: {one}" for one in (list_fds(host.pid) - before - images).elements()),
        *(f"kept: {one.name}" for one in host.keeper.kept),
        *(f"journal: {path}" for path in host.files.journal_dir.glob("*.vm")),
        *(f"socket: {path}" for path in host.files.work_dir.glob("vm-*.sock")),
    ]
