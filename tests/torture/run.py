"""One run: machines in their slots, and a page server that dies as planned."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .census import list_fds, list_marked
from .images import make_images, record
from .keeper import Keeper
from .pager import PagerFiles, PagerHost
from .plan import RETIRED, SERVING, STARTING, STEPS, Death, plan_deaths
from .programs import Programs
from .slot import Slot, World
from .standin import MachineLostError
from .tally import Tally

# After this a step that is not passed is not waited for any longer; it is owed again.
_PATIENCE_S: Final = 3.0
_END_S: Final = 60.0
_SETTLE_S: Final = 10.0
_LOG_TAIL: Final = 2000


@dataclass(frozen=True)
class RunOrder:
    """plant: a mistake to build into the page server (SNAP_PAGER_PLANT)."""

    seed: int
    deaths: int
    machines: int
    plant: str = ""


async def run_torture(
    programs: Programs, order: RunOrder, told: Callable[[Tally], None] = lambda _: None
) -> Tally:
    """told: called after every death. Leaves nothing behind but, if it failed, its logs."""
    tally = Tally(order.seed, order.machines)
    started_s = time.monotonic()
    with _files(tally) as files, contextlib.closing(Keeper(files.work_dir / "notify")) as keeper:
        host = PagerHost(programs, files, keeper, plant=order.plant)
        with contextlib.closing(make_images(programs, files.work_dir, order.seed)) as images:
            try:
                await _run(World(order.seed, programs, images, host, tally), order, told)
            finally:
                await host.close()
        tally.leaks += [f"the keeper: {one.name}" for one in keeper.kept]
        tally.leaked_processes = len(list_marked(str(files.work_dir)))
        tally.leaked_files = len(_left_files(files))
    tally.elapsed_s = time.monotonic() - started_s
    return tally


async def _run(world: World, order: RunOrder, told: Callable[[Tally], None]) -> None:
    host = world.host
    host.start()
    await host.ready()
    idle_fds = await _settled_fds(host)
    try:
        await record(world.programs, host, world.images, order.seed)
    except MachineLostError as exc:
        world.tally.lost.append(f"the recorded machine: {exc}")
    async with asyncio.TaskGroup() as tasks:
        slots = [tasks.create_task(Slot(world, n).run()) for n in range(order.machines)]
        await _kill_as_planned(world, deque(plan_deaths(order.seed, order.deaths)), told)
        world.is_ending = True
        await asyncio.wait(slots)
    may_have = idle_fds + world.images.kept()
    world.tally.compare_fds("the page server", may_have, await _settled_fds(host))
    host.signal(signal.SIGTERM)
    if not await host.ended(within_s=_END_S) or await host.bury() != 0:
        world.tally.broken.append("the last page server did not end when asked to")


# -- deaths ---------------------------------------------------------------------------------------


async def _kill_as_planned(
    world: World, deaths: deque[Death], told: Callable[[Tally], None]
) -> None:
    """Ends with a page server that lives on; early when a machine was lost, which fails the run."""
    host = world.host
    host.signal(signal.SIGTERM)
    await host.bury()
    while deaths and not world.tally.lost:
        death = deaths.popleft()
        if death.is_cold:
            world.images.evict()
        world.is_hurried = death.step == "journal"
        host.start(death.kill)
        if not await _die(host, death):
            deaths.append(Death(death.step))
        world.is_hurried = False
        _count(world, death, await host.bury())
        told(world.tally)
    host.start()
    await host.ready()


async def _die(host: PagerHost, death: Death) -> bool:
    """Returns: whether it ended as planned; killed it is in any case."""
    if death.step in STEPS:
        is_done = await host.ended(within_s=_PATIENCE_S)
        host.signal(signal.SIGKILL)
        return is_done
    if death.step != STARTING:
        await host.ready()
    if not await host.ended(within_s=death.after_s):
        host.signal(signal.SIGTERM if death.step == RETIRED else signal.SIGKILL)
        if not await host.ended(within_s=_END_S):
            host.signal(signal.SIGKILL)
            return False
    return True


def _count(world: World, death: Death, status: int) -> None:
    """At which step it died is what it wrote down, not what was planned."""
    host, tally = world.host, world.tally
    reported = _take_report(host.files.deaths)
    if status == -signal.SIGKILL:
        step = reported or (STARTING if death.step == STARTING else SERVING)
        tally.deaths[step] += 1
    elif status == 0 and death.step == RETIRED:
        tally.retired += 1
    else:
        tail = host.files.log.read_text(errors="replace")[-_LOG_TAIL:]
        tally.broken.append(f"page server {host.incarnation} ended with {status}: {tail}")


def _take_report(path: Path) -> str:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return ""
    path.unlink()
    return text.strip()


# -- ends -----------------------------------------------------------------------------------------


async def _settled_fds(host: PagerHost) -> Counter[str]:
    """Descriptors of the page server once all machines are gone."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_S):
            while (await host.client.stats()).machines:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    # Our own connection is closed in its next round.
    await asyncio.sleep(0.1)
    return list_fds(host.pid)


def _left_files(files: PagerFiles) -> list[Path]:
    return [path for path in files.journal_dir.iterdir() if path.name != "lock"]


@contextmanager
def _files(tally: Tally) -> Iterator[PagerFiles]:
    work_dir = Path(tempfile.mkdtemp(prefix="snapstart-torture-"))
    journal_dir = Path(tempfile.mkdtemp(prefix="snapstart-torture-", dir="/dev/shm"))
    try:
        yield PagerFiles(work_dir, journal_dir)
    finally:
        shutil.rmtree(journal_dir)
        if not (tally.lost or tally.broken or tally.wrong_bytes or tally.leaks):
            shutil.rmtree(work_dir)
        else:
            tally.logs = str(work_dir)
