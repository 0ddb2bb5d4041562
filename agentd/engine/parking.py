"""Keep forks ready for requests that bring nothing to inject.

A parked fork is an ordinary fork that got its own fresh identity; the id it was told becomes the id
of the session that takes it. It was exercised once, so that the pages every request touches are
private already, and its interpreter was restarted after that: its namespace is as new as a fork's.
A convenience of one machine: off by default, and never counted among the forks in metrics.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentd.engine.journal_records import (
    Role,
)
from agentd.engine.machines import Machines
from agentd.engine.plans import choose_parking
from agentd.engine.session import Ready
from agentd.engine.starter import Order, Starter
from agentd.engine.templates import Templates
from agentd.engine.trace import Tracer
from agentd.errors import SnapStartError
from agentd.settings import LiveSettings
from agentd.units import MIB
from agentd.warmfork.execution import collect_execution, execute
from agentd.warmfork.services import restart_interpreter, within
from agentd.wire.api import TemplateState
from agentd.wire.guest import ExecuteRequest

_PAUSE_S: Final = 5.0  # after a failure: a full node does not get emptier by asking at once
_EXERCISE: Final = "len(dir())"


@dataclass(frozen=True)
class Parked:
    """A fork that waits for its session."""

    id: str
    template: str
    ready: Ready


class Parking:
    """Owns the parked forks; `run` keeps their number, `close` ends them all."""

    def __init__(
        self,
        starter: Starter,
        machines: Machines,
        templates: Templates,
        tracer: Tracer,
        settings: LiveSettings,
        new_id: Callable[[], str],
    ) -> None:
        self._starter = starter
        self._machines = machines
        self._templates = templates
        self._tracer = tracer
        self._settings = settings
        self._new_id = new_id
        self._parked: list[Parked] = []
        self._changed = asyncio.Event()

    @property
    def count(self) -> int:
        """Forks that wait."""
        return len(self._parked)

    def nudge(self) -> None:
        """Templates came or went: look again."""
        self._changed.set()

    def take(self, template: str) -> Parked | None:
        """A parked fork of a template, owned by the caller; None if there is none alive."""
        for parked in self._parked:
            if parked.template == template and parked.ready.machine.vm.is_running:
                self._parked.remove(parked)
                self._changed.set()
                return parked
        return None

    async def run(self) -> None:
        """Park forks for ever. Cancellation: what is parked stays until `close`."""
        while True:
            self._changed.clear()
            await self._end_dead()
            lacking, surplus = choose_parking(
                Counter(parked.template for parked in self._parked),
                [t.name for t in self._templates.list() if t.state is TemplateState.READY],
                self._settings.warm.count,
            )
            for name in surplus:
                await self._end_one(name)
            if lacking is None:
                await self._changed.wait()
            else:
                await self._park(lacking)

    async def drop(self, template: str) -> None:
        """End the parked forks of a template."""
        while any(parked.template == template for parked in self._parked):
            await self._end_one(template)

    async def close(self) -> None:
        """End every parked fork."""
        while self._parked:
            await self._end_one(self._parked[0].template)

    async def _park(self, template: str) -> None:
        vm_id = self._new_id()
        try:
            order = Order(vm_id, self._settings.deadlines.fork_s, role=Role.PARKED)
            source = self._templates.require_ready(template)
            with self._templates.lease(template):
                ready = await self._starter.start(order, source)
            parked = Parked(vm_id, template, ready)
            try:
                self._machines.note_running(ready.machine.vm.record, None)
                await self._exercise(parked)
            except BaseException:
                await self._end(parked)
                raise
        except SnapStartError as exc:
            self._tracer.step("parking.failed", template=template, error=str(exc))
            await asyncio.sleep(_PAUSE_S)
        else:
            self._parked.append(parked)
            self._tracer.step("parking.parked", vm=vm_id, template=template)

    async def _exercise(self, parked: Parked) -> None:
        channel = parked.ready.machine.channel
        deadline_s = self._settings.deadlines.call_s
        request = ExecuteRequest(
            execution_id=f"{parked.id}-exercise",
            code=_EXERCISE,
            timeout_s=deadline_s,
            max_output_bytes=MIB,
            max_result_bytes=MIB,
        )
        async with within(deadline_s, "exercising a fork"), execute(channel, request) as events:
            await collect_execution(request, events)
        await restart_interpreter(channel, deadline_s=deadline_s)

    async def _end_dead(self) -> None:
        dead = [parked for parked in self._parked if not parked.ready.machine.vm.is_running]
        for parked in dead:
            self._parked.remove(parked)
            await self._end(parked)

    async def _end_one(self, template: str) -> None:
        parked = next((p for p in self._parked if p.template == template), None)
        if parked is not None:
            self._parked.remove(parked)
            await self._end(parked)

    async def _end(self, parked: Parked) -> None:
        machine = parked.ready.machine
        await self._machines.end(parked.id, machine.vm, machine.channel, "parked")
