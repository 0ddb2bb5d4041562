"""Make a template: boot, warm, prove clean, freeze, seal."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentd.engine.journal_records import (
    Role,
)
from agentd.engine.machines import Machines
from agentd.engine.plans import require_memory
from agentd.engine.threads import in_thread
from agentd.engine.trace import Tracer
from agentd.errors import ErrorCode, PeerError
from agentd.image import Image, load_image
from agentd.settings import LiveSettings
from agentd.store.loaded import LoadedTemplate
from agentd.store.progress import Progress, Steps
from agentd.store.seal import SealRequest
from agentd.store.templates import TemplateStore
from agentd.vmm.explain import add_console, add_log, read_log_tail
from agentd.vmm.vmm import BootSpec, Checkpoint, Vm, Vmm
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.services import fetch_status, take_baseline, within
from agentd.warmfork.verdict import Finding, HostKnowledge, judge_contamination
from agentd.wire.guest import GuestStatus
from agentd.wire.manifest import GuestFacts, ImageFacts, Machine, SnapshotFacts

# How far a build is when each stage begins; shares of a build under the emulator.
STAGES: Final = {
    "image": 0.0,
    "boot": 0.05,
    "warm": 0.1,
    "baseline": 0.7,
    "verdict": 0.75,
    "checkpoint": 0.8,
    "seal": 0.85,
    "ready": 1.0,
}
_RETRY_S: Final = 0.05  # between two questions to a guest that is not yet at rest


@dataclass(frozen=True)
class BuildOrder:
    """What to build. image: directory or key. snapshot: of a cluster, for which it is built."""

    name: str
    vm_id: str
    image: str
    machine: Machine
    snapshot: SnapshotFacts | None = None


@dataclass(frozen=True)
class HeldMachine:
    """A machine whose guest is warm and waits at its checkpoint, its gate closed.

    Owned by whoever holds it, who must hand it to `Builder.seal` or `Builder.drop`. channel: the
    only one there has been to it.
    """

    order: BuildOrder
    image: Image
    vm: Vm
    channel: GuestChannel
    stages_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """A template that was just built."""

    loaded: LoadedTemplate
    stages_ms: Mapping[str, float]


OnStage = Callable[[str, float], None]


class Builder:
    """Builds templates, one at a time per call; what it starts, it ends."""

    def __init__(
        self,
        vmm: Vmm,
        machines: Machines,
        store: TemplateStore,
        settings: LiveSettings,
        tracer: Tracer,
    ) -> None:
        self._vmm = vmm
        self._machines = machines
        self._store = store
        self._settings = settings
        self._tracer = tracer

    async def build(self, order: BuildOrder, on_stage: OnStage) -> Built:
        """Build one template, keeping its memory loaded: as `hold`, then `seal`."""
        return await self.seal(await self.hold(order, on_stage), order, on_stage)

    async def hold(self, order: BuildOrder, on_stage: OnStage) -> HeldMachine:
        """Boot an image, wait until its guest is warm; it stays there, with its gate closed.

        Returns: owned by the caller. Raises: SnapStartError of the stage that failed.
        Cancellation, any failure: ends the machine.
        """
        stages = _Stages(order.name, self._tracer, on_stage, {})
        stages.enter("image")
        image = await asyncio.to_thread(self._open_image, order)
        stages.enter("boot")
        async with self._machines.intended(order.vm_id, Role.BUILD) as run_dir:
            vm = await self._vmm.boot(boot_spec(order.vm_id, run_dir, image, order.machine))
        try:
            self._machines.note_running(vm.record, None)
            channel = await self._warm(vm, stages)
        except BaseException:
            await self._machines.end(order.vm_id, vm, None, "build_failed")
            raise
        stages.leave()
        return HeldMachine(order, image, vm, channel, stages.times_ms)

    async def drop(self, held: HeldMachine, reason: str) -> None:
        """End a held machine, remove what it leaves. Cancellation: afterwards."""
        await self._machines.end(held.order.vm_id, held.vm, held.channel, reason)

    async def seal(self, held: HeldMachine, order: BuildOrder, on_stage: OnStage) -> Built:
        """Prove a held machine clean, freeze it, keep it as a template.

        Args: held: over from the call on, whatever happens. order: its own, perhaps under another
        name. Returns: its memory is owned by the caller. Raises: SnapStartError of the stage that
        failed. Cancellation, any failure: ends the machine, removes what was written.
        """
        stages = _Stages(order.name, self._tracer, on_stage, held.stages_ms)
        frozen, status = await self._freeze(held, stages)
        try:
            stages.enter("seal")
            loaded = await self._seal(order, held.image, frozen, status, stages)
        except BaseException:
            _close(frozen)
            raise
        stages.enter("ready")
        return Built(loaded, stages.times_ms)

    def _open_image(self, order: BuildOrder) -> Image:
        image = load_image(order.image, self._settings.image_cache_dir)
        # First: nobody waits for a digest of what could not be booted for its size.
        require_memory(image.manifest, order.machine.memory_mib)
        image.verify_digests()
        return image

    async def _warm(self, vm: Vm, stages: _Stages) -> GuestChannel:
        """Wait until the guest answers, which it does once it is warm; take its baseline."""
        stages.enter("warm")
        deadline_s = self._settings.deadlines.warm_s
        connecting = GuestChannel.connect(
            vm.channel_path, deadline_s=deadline_s, prelude=vm.channel_prelude
        )
        channel = await _unless_dead(vm, connecting)
        try:
            stages.enter("baseline")
            async with _explained(vm):
                await take_baseline(channel, deadline_s=self._settings.deadlines.call_s)
        except BaseException:
            await channel.close()
            raise
        return channel

    async def _freeze(self, held: HeldMachine, stages: _Stages) -> tuple[Checkpoint, GuestStatus]:
        vm, vm_id = held.vm, held.order.vm_id
        frozen = None
        try:
            stages.enter("verdict")
            async with _explained(vm):
                status = await _fetch_clean_status(
                    vm, held.channel, self._settings.deadlines.call_s
                )
            await held.channel.close()
            stages.enter("checkpoint")
            frozen = await self._vmm.checkpoint(
                vm, deadline_s=self._settings.deadlines.checkpoint_s
            )
            await self._machines.end(vm_id, vm, None, "frozen")
        except BaseException:
            if frozen is not None:
                _close(frozen)
            await self._machines.end(vm_id, vm, held.channel, "build_failed")
            raise
        return frozen, status

    async def _seal(
        self,
        order: BuildOrder,
        image: Image,
        frozen: Checkpoint,
        status: GuestStatus,
        stages: _Stages,
    ) -> LoadedTemplate:
        request = _seal_request(order, image, frozen, status)

        def work(cancel_fd: int) -> LoadedTemplate:
            steps = Steps(on_progress=stages.on_seal, cancel_fd=cancel_fd)
            manifest = self._store.seal(request, steps)
            return self._store.adopt_memfds(manifest, frozen.memory_fd, frozen.state_fd)

        async with asyncio.timeout(self._settings.deadlines.seal_s):
            return await in_thread(work, lambda _sealed: self._store.remove(order.name))


class _Stages:
    """Times the stages of one build, tells who watches. `on_seal` may be called in any thread."""

    def __init__(
        self, name: str, tracer: Tracer, on_stage: OnStage, times_ms: Mapping[str, float]
    ) -> None:
        self._name = name
        self._tracer = tracer
        self._on_stage = on_stage
        self._loop = asyncio.get_running_loop()
        self._entered = time.monotonic()
        self._stage = ""
        self.times_ms = dict(times_ms)

    def leave(self) -> None:
        """The present stage ended."""
        if self._stage:
            self.times_ms[self._stage] = round((time.monotonic() - self._entered) * 1000, 3)
        self._stage = ""

    def enter(self, stage: str) -> None:
        """A stage begins, the former one ended."""
        self.leave()
        self._stage, self._entered = stage, time.monotonic()
        self._on_stage(stage, STAGES[stage])
        self._tracer.step(f"template.{stage}.started", template=self._name)

    def on_seal(self, progress: Progress) -> None:
        """How far the seal is."""
        if progress.total_bytes:
            share = progress.done_bytes / progress.total_bytes
            at = STAGES["seal"] + share * (STAGES["ready"] - STAGES["seal"])
            self._loop.call_soon_threadsafe(self._on_stage, "seal", round(at, 3))


@asynccontextmanager
async def _explained(vm: Vm) -> AsyncIterator[None]:
    """Let what a guest does wrong say what it and its monitor wrote last."""
    try:
        yield
    except PeerError as exc:
        if exc.code is not ErrorCode.GUEST_CONTAMINATED:
            exc.message = await _add_last_words(exc.message, vm)
        raise


async def _unless_dead(vm: Vm, connecting: Coroutine[Any, Any, GuestChannel]) -> GuestChannel:
    """The channel, unless the machine dies before there is one."""
    doing = asyncio.ensure_future(connecting)
    death = asyncio.ensure_future(vm.wait())
    try:
        await asyncio.wait({doing, death}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})
        if not doing.cancelled() and doing.exception() is None:
            return doing.result()
        if death.done():
            raise await _not_warm(vm, f"its machine ended ({death.result()})")
        raise await _not_warm(vm, str(doing.exception()), code=_code_of(doing.exception()))
    finally:
        doing.cancel()
        death.cancel()
        await asyncio.wait({doing, death})


async def _fetch_clean_status(vm: Vm, channel: GuestChannel, deadline_s: float) -> GuestStatus:
    """Ask until the guest is clean or proves that it never will be.

    channel: the only one there has been to this machine, so its count of services is complete.
    """
    async with within(deadline_s, "waiting for a clean guest"):
        while True:
            status = await fetch_status(channel, deadline_s=deadline_s)
            host = HostKnowledge(channel.opened, vm.has_network_device)
            verdict = judge_contamination(status, host)
            if verdict.finding is Finding.CLEAN:
                return status
            if verdict.finding is Finding.CONTAMINATED:
                raise PeerError(
                    ErrorCode.GUEST_CONTAMINATED,
                    f"judging the guest: {verdict}",
                    hint="an image must start nothing but the guest runtime",
                )
            await asyncio.sleep(_RETRY_S)


def _code_of(error: BaseException | None) -> ErrorCode:
    """A guest that does not speak the protocol is told from one that is not there yet."""
    is_babble = isinstance(error, PeerError) and error.code is ErrorCode.GUEST_PROTOCOL
    return ErrorCode.GUEST_PROTOCOL if is_babble else ErrorCode.GUEST_NOT_READY


async def _add_last_words(message: str, vm: Vm) -> str:
    """A failure with what monitor and guest wrote last; before the machine's directory goes."""
    said = add_log(message, read_log_tail(vm.record.run_dir))
    return add_console(said, await vm.console_tail(deadline_s=1.0))


async def _not_warm(vm: Vm, what: str, *, code: ErrorCode = ErrorCode.GUEST_NOT_READY) -> PeerError:
    return PeerError(
        code,
        await _add_last_words(f"warming the guest: {what}", vm),
        hint="give it more memory_mib if it died, raise deadlines.warm_s if it is only slow",
    )


def boot_spec(vm_id: str, run_dir: Path, image: Image, machine: Machine) -> BootSpec:
    """How to boot an image. Raises: UsageError when the machine is too small for it."""
    require_memory(image.manifest, machine.memory_mib)
    cmdline = " ".join(image.manifest.cmdline)
    return BootSpec(vm_id, run_dir, image.kernel_path, image.initrd_path, cmdline, machine)


def _seal_request(
    order: BuildOrder, image: Image, frozen: Checkpoint, status: GuestStatus
) -> SealRequest:
    return SealRequest(
        name=order.name,
        image=ImageFacts(image.key, image.manifest.kernel_release),
        machine=order.machine,
        vmm=frozen.facts,
        guest=GuestFacts(
            status.runtime.version,
            status.runtime.python,
            tuple(status.details.preloaded_packages),
        ),
        memory_fd=frozen.memory_fd,
        state_fd=frozen.state_fd,
        snapshot=order.snapshot,
    )


def _close(frozen: Checkpoint) -> None:
    os.close(frozen.memory_fd)
    os.close(frozen.state_fd)
