"""Know the templates of this node."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from agentd.engine.adoption import FailTemplate
from agentd.engine.build import Builder, BuildOrder, Built, HeldMachine, OnStage
from agentd.engine.checks import Checks
from agentd.engine.journal import Journal
from agentd.engine.journal_records import (
    TemplateBegun,
    TemplateEntry,
    TemplateFailed,
    TemplateSettled,
)
from agentd.engine.machines import BOOT_OVERHEAD_BYTES, Machines
from agentd.engine.plans import Need, choose_machine
from agentd.engine.reading import UNUSABLE, Reading
from agentd.engine.records import Records
from agentd.engine.tasks import Tasks, uninterrupted
from agentd.engine.template import (
    Template,
    died,
    from_begun,
    from_broken,
    from_failed,
    from_store,
    rfc3339,
    stopped,
    too_slow,
)
from agentd.engine.trace import Tracer
from agentd.errors import (
    ErrorCode,
    InvariantError,
    PermanentError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.settings import LiveSettings
from agentd.store.load import Verified
from agentd.store.loaded import LoadedTemplate
from agentd.store.names import validate_name
from agentd.store.templates import StoredTemplate, TemplateStore
from agentd.units import MIB
from agentd.vmm.vmm import Vmm
from agentd.wire.api import CreateTemplate, TemplateState
from agentd.wire.manifest import Machine, SnapshotFacts

_Build = Callable[[OnStage], Coroutine[Any, Any, Built]]


class Templates:
    """The templates of this node by name; owns their memory and their builds.

    Args: tasks: run builds and loads. now_s: seconds since the epoch. on_change: called
    when a template became ready or went away.
    """

    def __init__(
        self,
        vmm: Vmm,
        store: TemplateStore,
        builder: Builder,
        machines: Machines,
        journal: Journal,
        records: Records,
        tasks: Tasks,
        tracer: Tracer,
        settings: LiveSettings,
        now_s: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._builder = builder
        self._machines = machines
        self._journal = journal
        self._records = records
        self._tasks = tasks
        self._tracer = tracer
        self._settings = settings
        self._now_s = now_s
        self._on_change = on_change
        self._all: dict[str, Template] = {}
        self._reading = Reading(vmm, store, tasks, tracer, settings, on_change)
        self._checks = Checks(store, tasks, tracer, self._reading.note_unusable)

    # -- what there is ----------------------------------------------------------------------

    def restore(self, entries: Mapping[str, TemplateEntry], died: list[FailTemplate]) -> None:
        """Fill the table at start: the store's templates, then builds that failed."""
        for stored in self._store.list():
            self._restore(stored)
        for broken in self._store.list_broken():
            self._all[broken.name] = from_broken(broken)
        for action in died:
            self._settle_dead_build(action.begun)
        for entry in entries.values():
            if entry.begun.is_held:
                self._journal_quietly(TemplateSettled(entry.begun.name))
            elif entry.failed is not None and entry.begun.name not in self._all:
                self._all[entry.begun.name] = from_failed(entry.begun, entry.failed)

    def _restore(self, stored: StoredTemplate) -> None:
        template = self._all[stored.manifest.name] = from_store(stored)
        try:
            self._reading.require_compatible(stored.manifest)
        except PermanentError as exc:
            self._reading.note_unusable(template, exc)
        else:
            if not stored.has_digest:
                self._checks.record_digest(template)

    def list(self) -> list[Template]:
        """Every template, by name."""
        return [self._all[name] for name in sorted(self._all)]

    def get(self, name: str) -> Template:
        """One template. Raises: UsageError NAME_INVALID, TEMPLATE_NOT_FOUND."""
        validate_name(name)
        template = self._all.get(name)
        if template is None:
            raise UsageError(
                ErrorCode.TEMPLATE_NOT_FOUND,
                f"looking for template {name!r}: there is none of that name",
                hint="`snapctl template list` shows the names",
            )
        return template

    def find(self, name: str) -> Template | None:
        """One template, if there is one of that name."""
        return self._all.get(name)

    def require_ready(self, name: str) -> Template:
        """One template that sessions can start from. Raises: as `get`; what its build failed of."""
        template = self.get(name)
        if template.state is TemplateState.READY:
            return template
        if template.error is not None:
            raise PermanentError(
                template.error.code,
                f"using template {name!r}: {template.error.message}",
                hint=template.error.hint or "remove the template, build it again",
            )
        raise UsageError(
            ErrorCode.TEMPLATE_NOT_READY,
            f"using template {name!r}: it is {template.state.value}",
            hint="wait until its state is ready",
        )

    @property
    def loaded_bytes(self) -> int:
        """The memory that loaded templates take."""
        return sum(
            template.memory.manifest.memory.data_bytes
            for template in self._all.values()
            if template.memory is not None
        )

    def lease(self, name: str) -> AbstractContextManager[None]:
        """Keep a template from being removed. Raises: UsageError."""
        return self._store.lease(name)

    async def load(self, template: Template) -> LoadedTemplate:
        """The memory of a ready template, read from disk at its first use after a start.

        Returns: borrowed. Raises: PermanentError if it is damaged or does not fit this monitor; it
        is not ready any more then.
        Cancellation: the load goes on for whoever comes next.
        """
        return await self._reading.load(template)

    async def inspect(self, name: str) -> StoredTemplate:
        """Look at a template on disk: its manifest, its files' sizes, whether it fits this monitor.

        Raises: UsageError TEMPLATE_NOT_FOUND; PermanentError TEMPLATE_CORRUPT,
        TEMPLATE_INCOMPATIBLE. Cancellation: harmless.
        """
        return await asyncio.to_thread(self._reading.inspect, name)

    async def verify(self, name: str) -> Verified:
        """Read a template's every byte from disk, whether it is loaded or not.

        Raises: UsageError TEMPLATE_NOT_FOUND, TEMPLATE_NOT_READY; PermanentError TEMPLATE_CORRUPT
        with what is damaged, or what its build failed of. Cancellation: stops soon.
        """
        template = self.get(name)
        if template.error is None or template.error.code not in UNUSABLE:
            self.require_ready(name)
        return await self._checks.verify(template)

    # -- building ---------------------------------------------------------------------------

    def begin(self, request: CreateTemplate) -> Template:
        """Start to build a template; its record says how far it is.

        Raises: UsageError NAME_INVALID, TEMPLATE_EXISTS, REQUEST_INVALID; TransientError NODE_FULL.
        """
        order = self._order(request)
        need = Need(order.machine.memory_mib * MIB + BOOT_OVERHEAD_BYTES, is_session=False)
        self._machines.promise(order.vm_id, need)
        try:
            template = self._announce(order, is_held=False)
        except BaseException:
            self._machines.withdraw(order.vm_id)
            raise
        self._start(template, lambda on_stage: self._builder.build(order, on_stage))
        return template

    async def seal(self, held: HeldMachine, name: str, snapshot: SnapshotFacts) -> Template:
        """Keep a held machine as a template; nothing is kept of a failure.

        Args: held: over once the build has begun, whatever happens; a refusal leaves it alone.
        Raises: UsageError NAME_INVALID, TEMPLATE_EXISTS, a refusal; what the build failed of.
        Cancellation: stops the build, ends the machine.
        """
        self._require_free(validate_name(name))
        order = replace(held.order, name=name, snapshot=snapshot)
        template = self._announce(order, is_held=True)
        building = self._start(template, lambda on_stage: self._builder.seal(held, order, on_stage))
        try:
            await asyncio.wait({building})
        except asyncio.CancelledError:
            building.cancel()
            await uninterrupted(_settled(building))
            raise
        finally:
            if template.state is TemplateState.FAILED and self._all.get(name) is template:
                self._forget(template)
        if template.error is not None:
            raise template.error
        return template

    def _announce(self, order: BuildOrder, *, is_held: bool) -> Template:
        created_at_s = self._now_s()
        self._journal.append(_begun(order, created_at_s, is_held))
        template = Template(
            name=order.name,
            state=TemplateState.BUILDING,
            image=order.image,
            machine=order.machine,
            created_at=rfc3339(created_at_s),
            build_id=order.vm_id,
            snapshot=order.snapshot,
        )
        self._all[order.name] = template
        self._records.template_begun(order.vm_id, order.name, order.image, created_at_s)
        self._tracer.step("template.begun", template=order.name)
        return template

    def _start(self, template: Template, build: _Build) -> asyncio.Task[None]:
        name = f"template-build:{template.name}"
        template.building = self._tasks.start(name, self._build(template, build))
        return template.building

    def _require_free(self, name: str) -> None:
        if name in self._all:
            raise UsageError(
                ErrorCode.TEMPLATE_EXISTS,
                f"building template {name!r}: there is one of that name "
                f"({self._all[name].state.value})",
                hint="choose another name, or remove it first",
            )

    def _order(self, request: CreateTemplate) -> BuildOrder:
        name = validate_name(request.name)
        self._require_free(name)
        bounds = self._settings.machines
        machine = Machine(
            choose_machine(
                request.memory_mib, bounds.memory_mib, bounds.max_memory_mib, "memory_mib"
            ),
            choose_machine(request.vcpus, bounds.vcpus, bounds.max_vcpus, "vcpus"),
        )
        return BuildOrder(name, f"t-{secrets.token_hex(8)}", request.image, machine)

    async def _build(self, template: Template, build: _Build) -> None:
        def on_stage(stage: str, progress: float) -> None:
            if template.state is TemplateState.BUILDING:
                template.stage, template.progress = stage, progress

        try:
            built = await build(on_stage)
        except SnapStartError as exc:
            self._fail(template, exc)
        except TimeoutError:
            self._fail(template, too_slow(template))
        except asyncio.CancelledError:
            self._fail(template, stopped(template))
            raise
        except Exception as exc:
            self._fail(template, InvariantError(f"building template {template.name!r}: {exc!r}"))
            raise
        else:
            await self._complete(template, built)
        finally:
            self._machines.withdraw(template.build_id)
            template.building = None

    async def _complete(self, template: Template, built: Built) -> None:
        template.memory = built.loaded
        template.state = TemplateState.READY
        template.stage, template.progress = "ready", 1.0
        template.stages_ms = built.stages_ms
        stored = await asyncio.to_thread(self._store.inspect, template.name)
        template.size_bytes = stored.disk_bytes
        self._settle(template, "ready", "")
        self._checks.record_digest(template)
        self._tracer.step(
            "template.ready",
            template=template.name,
            **{f"{stage}_ms": value for stage, value in built.stages_ms.items()},
        )

    def _fail(self, template: Template, error: SnapStartError) -> None:
        template.error = error
        template.state = TemplateState.FAILED
        record = TemplateFailed(template.name, error.code.value, error.message, error.hint)
        self._journal_quietly(record)
        self._records.template_settled(template.build_id, self._now_s(), "failed", error.message)
        self._tracer.step(
            "template.failed",
            template=template.name,
            stage=template.stage,
            code=error.code.value,
            error=str(error),
        )

    def _settle(self, template: Template, outcome: str, detail: str) -> None:
        self._journal_quietly(TemplateSettled(template.name))
        self._records.template_settled(template.build_id, self._now_s(), outcome, detail)
        self._on_change()

    def _settle_dead_build(self, begun: TemplateBegun) -> None:
        """The predecessor died while it built: what it had sealed already is a template."""
        template = self._all.get(begun.name)
        if template is None and begun.is_held:
            return  # its owner asks for another one
        if template is None:
            template = self._all[begun.name] = from_begun(begun)
            self._fail(template, died(begun.name))
        elif template.state is TemplateState.READY:
            self._settle(template, "ready", "sealed before agentd died")

    def _journal_quietly(self, record: TemplateFailed | TemplateSettled) -> None:
        """After the fact: a successor that does not know it asks the store."""
        try:
            self._journal.append(record)
        except TransientError as exc:
            self._tracer.step("journal.failed", template=record.name, error=str(exc))

    # -- removing ---------------------------------------------------------------------------

    async def remove(self, name: str) -> None:
        """Remove a template; one that is being built is stopped first.

        Raises: UsageError TEMPLATE_NOT_FOUND, TEMPLATE_IN_USE.
        Cancellation: after the removal.
        """
        template = self.get(name)
        if template.state is TemplateState.REMOVING:
            raise UsageError(
                ErrorCode.TEMPLATE_NOT_READY,
                f"removing template {name!r}: that is happening already",
                hint="wait until it is gone",
            )
        await uninterrupted(self._remove(template))

    async def _remove(self, template: Template) -> None:
        was, template.state = template.state, TemplateState.REMOVING
        if template.building is not None:
            template.building.cancel()
            await asyncio.wait({template.building})
        if template.loading is not None:
            await asyncio.wait({template.loading})
        await self._checks.stop_digest(template)
        try:
            await asyncio.to_thread(self._store.remove, template.name)
        except SnapStartError as exc:
            if exc.code is not ErrorCode.TEMPLATE_NOT_FOUND:
                template.state = was
                raise
        self._forget(template)

    def _forget(self, template: Template) -> None:
        del self._all[template.name]
        memory, template.memory = template.memory, None
        if memory is not None:
            memory.close()
        self._settle(template, "removed", "")
        self._tracer.step("template.removed", template=template.name)

    # -- stopping ---------------------------------------------------------------------------

    async def stop_work(self) -> None:
        """Cancel every build, every digest; wait until each build has ended its machine."""
        mine = [task for t in self._all.values() for task in (t.building, t.digesting)]
        running = {task for task in mine if task is not None}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def close(self) -> None:
        """Give the memory back; machines that map it keep it. Idempotent."""
        self._checks.close()
        for template in self._all.values():
            memory, template.memory = template.memory, None
            if memory is not None:
                memory.close()


async def _settled(building: asyncio.Task[None]) -> None:
    await asyncio.wait({building})


def _begun(order: BuildOrder, created_at_s: float, is_held: bool) -> TemplateBegun:
    machine = order.machine
    return TemplateBegun(
        order.name,
        order.vm_id,
        order.image,
        machine.memory_mib,
        machine.vcpus,
        created_at_s,
        is_held,
    )
