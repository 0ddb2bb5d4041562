"""Let one machine after the other live in a slot, whatever the page server does meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import ErrorCode, SnapStartError, TransientError
from agentd.wire.pager import Listen, Serving

from .census import list_fds
from .images import REGIONS, Images
from .pager import PagerHost
from .plan import Life, plan_life
from .programs import Programs
from .standin import MachineLostError, MachineOrder, StandIn
from .tally import Tally

_WAIT_S: Final = 60.0
_AGAIN_S: Final = 0.005


@dataclass
class World:
    """What all slots share. is_ending: lives come to an end. is_hurried: so that new ones begin."""

    seed: int
    programs: Programs
    images: Images
    host: PagerHost
    tally: Tally
    is_ending: bool = False
    is_hurried: bool = False


class Slot:
    """One place for a machine."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        self._generation = 0

    async def run(self) -> None:
        """One life after the other, until the world ends."""
        while not self._world.is_ending:
            life = plan_life(self._world.seed, self._number, self._generation)
            self._generation += 1
            name = f"vm-{self._number}-{self._generation}"
            try:
                await self._live(name, life)
            except (MachineLostError, SnapStartError) as exc:
                self._world.tally.lost.append(f"{name} ({life.dialect}): {exc}")
            await self._world.host.client.forget(name)
            # Of a page server that died while it listened there.
            (self._world.host.files.work_dir / f"{name}.sock").unlink(missing_ok=True)

    async def _live(self, name: str, life: Life) -> None:
        if life.is_cold:
            self._world.images.evict()
        async with await self._start(name, life) as machine:
            if not await self._hand_over(name, life, machine):
                self._world.tally.hand_overs_repeated += 1
                return
            fds = list_fds(machine.pid)
            await self._touch(machine, life)
            if life.is_killed and not self._world.is_ending:
                await _die_touching(machine, life)
            else:
                await self._finish(name, machine, fds)

    async def _start(self, name: str, life: Life) -> StandIn:
        work_dir = self._world.host.files.work_dir
        images = self._world.images
        order = MachineOrder(
            socket=self._socket_of(name, life),
            protocol=life.dialect,
            image=self._image_of(name) if life.dialect == "kuasar"
            else images.memfd_path if life.dialect == "memfd" else images.path,
            regions=REGIONS,
            seed=life.seed,
            options=life.options,
        )  # fmt: skip
        log_file = work_dir / f"slot-{self._number}.log"
        program = self._world.programs.machine
        return await StandIn.start(program, order, log_file=log_file, mark=str(work_dir))

    def _socket_of(self, name: str, life: Life) -> Path:
        files = self._world.host.files
        return files.kuasar_socket if life.dialect == "kuasar" else files.work_dir / f"{name}.sock"

    def _image_of(self, name: str) -> Path:
        """Where Kuasar has a sandbox's image: a link into the template."""
        path = self._world.host.files.kuasar_dir / name / "restore" / "memory.img"
        path.parent.mkdir(parents=True)
        path.symlink_to(self._world.images.path)
        return path

    # -- handing over -------------------------------------------------------------------------

    async def _hand_over(self, name: str, life: Life, machine: StandIn) -> bool:
        """Returns: whether the page server has it; if not, it died in the middle, and whoever
        starts machines begins anew.
        """
        if life.dialect != "kuasar":
            await self._world.host.client.listen(self._order_of(name, life))
        await machine.say("map")
        incarnation = self._world.host.incarnation
        try:
            if not (await machine.say("connect")).ok:
                return False
        except MachineLostError:
            # The successor ends a machine that was not handed over whole.
            if self._is_cut(name, incarnation):
                return False
            raise
        serving = await self._serving(name, life, incarnation)
        if serving is None:
            return False
        # A monitor that gives it away may still have had it when the page server looked.
        keeps = ("both",) if life.is_holding else ("keeper", "both")
        if serving.kept_by not in keeps:
            raise MachineLostError(f"it is kept by {serving.kept_by!r}, not {keeps!r}")
        self._world.tally.lives += 1
        self._world.tally.methods[serving.method] += 1
        return True

    def _order_of(self, name: str, life: Life) -> Listen:
        images = self._world.images
        return Listen(
            vm=name,
            socket=str(self._socket_of(name, life)),
            protocol="memfd" if life.dialect == "memfd" else "firecracker",
            image="" if life.dialect == "memfd" else str(images.path),
            digest=images.digest,
            working_set=images.working_set if life.has_set else "",
        )

    async def _serving(self, name: str, life: Life, incarnation: int) -> Serving | None:
        """Returns: None if the page server died before it had written the machine down.

        Kuasar's machines are not announced: the page server has not heard of one until it reads
        what that one said.
        """
        host = self._world.host
        while True:
            try:
                return await host.client.wait(name, deadline_s=_WAIT_S)
            except SnapStartError as exc:
                if self._is_cut(name, incarnation):
                    return None
                if life.dialect != "kuasar" or not _is_unknown(exc):
                    raise
            await asyncio.sleep(_AGAIN_S)

    def _is_cut(self, name: str, incarnation: int) -> bool:
        """Whether the page server that it was handed to died before it had written it down."""
        host = self._world.host
        return host.incarnation != incarnation and not host.was_journalled(name)

    # -- living -------------------------------------------------------------------------------

    async def _touch(self, machine: StandIn, life: Life) -> None:
        for _ in range(life.batches):
            if self._world.is_ending or self._world.is_hurried:
                return
            self._world.tally.add(await machine.say(f"random {life.touches}"))

    async def _finish(self, name: str, machine: StandIn, fds: Counter[str]) -> None:
        self._world.tally.add(await machine.say("verify"))
        self._world.tally.compare_fds(name, fds, list_fds(machine.pid))
        status = await machine.quit()
        if status != 0:
            raise MachineLostError(f"it ended with status {status}")


def _is_unknown(exc: SnapStartError) -> bool:
    return isinstance(exc, TransientError) and exc.code == ErrorCode.VMM_FAILED


async def _die_touching(machine: StandIn, life: Life) -> None:
    """As when a guest is thrown away in the middle of what it does."""
    touching = asyncio.create_task(machine.say(f"random {100 * life.touches}"))
    try:
        await asyncio.wait((touching,), timeout=life.killed_after_s)
    finally:
        machine.kill()
        await asyncio.gather(touching, return_exceptions=True)
