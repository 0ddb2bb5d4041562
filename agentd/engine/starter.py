"""Start the machine of one session."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from agentd.engine.build import boot_spec
from agentd.engine.journal_records import (
    Role,
)
from agentd.engine.machines import BOOT_OVERHEAD_BYTES, Launch, Machines
from agentd.engine.plans import Need
from agentd.engine.session import Ready
from agentd.engine.template import Template
from agentd.engine.templates import Templates
from agentd.image import load_image
from agentd.settings import LiveSettings
from agentd.units import MIB
from agentd.vmm.vmm import ForkSpec, Started, Vmm
from agentd.warmfork.prepare import encode_prepare, new_identity
from agentd.warmfork.services import within
from agentd.wire.api import SessionMode
from agentd.wire.manifest import Machine as Shape

_NS_PER_MS: Final = 1e6


@dataclass(frozen=True)
class ImageSource:
    """What to boot cold where there is no template. image: directory or key."""

    image: str
    machine: Shape


@dataclass(frozen=True)
class Order:
    """What to start.

    hostname: empty takes the machine's id. auth_key: PEM of the RSA key whose tokens the guest's
    HTTP interface demands; empty leaves it to the image.
    """

    vm_id: str
    deadline_s: float
    mode: SessionMode = SessionMode.FORK
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    role: Role = Role.SESSION
    hostname: str = ""
    auth_key: str = ""


class _Stages:
    """When the stages before the monitor's own were over: milliseconds since the order."""

    def __init__(self) -> None:
        self._begun_ns = time.monotonic_ns()
        self._reached_ms: dict[str, float] = {}

    def noting_slot(self, launch: Launch) -> Launch:
        """The template is in memory; the same launch, which notes when its turn came."""
        self._note("template", time.monotonic_ns())

        async def noted(run_dir: Path, deadline_s: float) -> Started:
            self._note("slot", time.monotonic_ns())
            return await launch(run_dir, deadline_s)

        return noted

    def with_those_of(self, started: Started) -> dict[str, float]:
        """All stages. `prepared` is where those of the monitor begin to count."""
        self._note("prepared", started.begun_ns)
        return {**self._reached_ms, **started.stages_ms}

    def _note(self, stage: str, at_ns: int) -> None:
        self._reached_ms[stage] = (at_ns - self._begun_ns) / _NS_PER_MS


class Starter:
    """Forks templates, or boots their images cold."""

    def __init__(
        self, vmm: Vmm, machines: Machines, templates: Templates, settings: LiveSettings
    ) -> None:
        self._vmm = vmm
        self._machines = machines
        self._templates = templates
        self._settings = settings

    async def start(self, order: Order, source: Template | ImageSource) -> Ready:
        """Start a machine; until this returns it owns everything.

        Args: source: a template to fork, or what to boot.
        Raises: UsageError for an identity the guest would refuse; TransientError NODE_FULL,
        NO_MEMORY; PeerError; PermanentError. Cancellation: leaves nothing behind.
        """
        stages = _Stages()
        identity = new_identity(order.vm_id, os.urandom, order.hostname)
        prepare = encode_prepare(identity, order.env, order.files, order.metadata, order.auth_key)
        need = self.need_of(order.mode, source.machine, order.role)
        self._machines.promise(order.vm_id, replace(need, deadline_s=order.deadline_s))
        clock = asyncio.get_running_loop().time
        ends_at_s = clock() + order.deadline_s
        try:
            if order.mode is SessionMode.COLD or isinstance(source, ImageSource):
                launch = self._cold(order, source, prepare)
            else:
                launch = await self._fork(order, source, prepare)
            launch = stages.noting_slot(launch)
            machine, started = await self._machines.launch(
                order.vm_id, order.role, launch, deadline_s=ends_at_s - clock()
            )
        except BaseException:
            self._machines.withdraw(order.vm_id)
            raise
        return Ready(machine, identity.hostname, stages.with_those_of(started))

    def need_of(self, mode: SessionMode, machine: Shape | None, role: Role) -> Need:
        """The memory to promise. machine: None when nobody knows any more."""
        is_session = role is Role.SESSION
        if mode is SessionMode.COLD and machine is not None:
            return Need(machine.memory_mib * MIB + BOOT_OVERHEAD_BYTES, is_session)
        return Need(self._settings.admission.fork_private_bytes, is_session)

    async def _fork(self, order: Order, template: Template, prepare: bytes) -> Launch:
        async with within(order.deadline_s, f"loading template {template.name!r}"):
            loaded = await self._templates.load(template)

        async def launch(run_dir: Path, deadline_s: float) -> Started:
            spec = ForkSpec(order.vm_id, run_dir, prepare)
            begun_s, is_over = time.monotonic(), False
            try:
                started = await self._vmm.fork(loaded, spec, deadline_s=deadline_s)
                is_over = True
            finally:
                self._machines.note_turn(time.monotonic() - begun_s, is_over=is_over)
            return started

        return launch

    def _cold(self, order: Order, source: Template | ImageSource, prepare: bytes) -> Launch:
        async def launch(run_dir: Path, deadline_s: float) -> Started:
            cache_dir = self._settings.image_cache_dir
            image = await asyncio.to_thread(load_image, source.image, cache_dir)
            spec = boot_spec(order.vm_id, run_dir, image, source.machine)
            return await self._vmm.boot_session(spec, prepare, deadline_s=deadline_s)

        return launch
