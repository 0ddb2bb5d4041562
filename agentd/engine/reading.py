"""Read templates from disk, each at its first use after a start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from agentd.engine.tasks import Tasks
from agentd.engine.template import Template, incompatible
from agentd.engine.threads import in_thread
from agentd.engine.trace import Tracer
from agentd.errors import ErrorCode, SnapStartError
from agentd.settings import LiveSettings
from agentd.store.compatibility import classify_compatibility
from agentd.store.loaded import LoadedTemplate
from agentd.store.progress import Steps
from agentd.store.templates import StoredTemplate, TemplateStore
from agentd.vmm.vmm import Vmm
from agentd.wire.api import TemplateState
from agentd.wire.manifest import Manifest

# What no second attempt mends.
UNUSABLE: Final = frozenset({ErrorCode.TEMPLATE_CORRUPT, ErrorCode.TEMPLATE_INCOMPATIBLE})


class Reading:
    """Brings memory of templates in, and notes which cannot be used.

    Args: tasks: run loads. on_change: called when a template turned out to be unusable.
    """

    def __init__(
        self,
        vmm: Vmm,
        store: TemplateStore,
        tasks: Tasks,
        tracer: Tracer,
        settings: LiveSettings,
        on_change: Callable[[], None],
    ) -> None:
        self._vmm = vmm
        self._store = store
        self._tasks = tasks
        self._tracer = tracer
        self._settings = settings
        self._on_change = on_change

    async def load(self, template: Template) -> LoadedTemplate:
        """Its memory, borrowed; read once, by whoever comes first.

        Raises: UsageError TEMPLATE_NOT_FOUND; PermanentError if it is damaged or does not fit this
        monitor; it is not ready any more then. Cancellation: the load goes on.
        """
        if template.memory is not None:
            return template.memory
        if template.loading is None:
            name = f"template-load:{template.name}"
            template.loading = self._tasks.start(name, self._load(template))
        return await asyncio.shield(template.loading)

    async def _load(self, template: Template) -> LoadedTemplate:
        try:
            async with asyncio.timeout(self._settings.deadlines.load_s):
                template.memory = await in_thread(
                    lambda cancel_fd: self._read(template.name, cancel_fd), LoadedTemplate.close
                )
        except SnapStartError as exc:
            self.note_unusable(template, exc)
            raise
        finally:
            template.loading = None
        reading = template.memory.reading
        assert reading is not None  # it was not built but read
        self._tracer.step(
            "template.loaded", template=template.name, source=reading.source, why=reading.why
        )
        return template.memory

    def _read(self, name: str, cancel_fd: int) -> LoadedTemplate:
        self.inspect(name)
        return self._store.load(name, Steps(cancel_fd=cancel_fd))

    def inspect(self, name: str) -> StoredTemplate:
        """Manifest, sizes of files. Blocks. Raises: UsageError, PermanentError, as `load`."""
        stored = self._store.inspect(name)
        self.require_compatible(stored.manifest)
        return stored

    def require_compatible(self, manifest: Manifest) -> None:
        """Whether this monitor can restore it. Raises: PermanentError TEMPLATE_INCOMPATIBLE."""
        reasons = classify_compatibility(manifest, self._vmm.facts(manifest.machine))
        if reasons:
            raise incompatible(manifest.name, reasons)

    def note_unusable(self, template: Template, error: SnapStartError) -> None:
        """What cannot be read from disk is refused from here on without being read again.

        Memory that was loaded before is sound: whoever has it keeps it.
        """
        is_final = error.code in UNUSABLE and template.state is TemplateState.READY
        if not is_final or template.memory is not None:
            return
        template.state, template.error = TemplateState.FAILED, error
        self._tracer.step(
            "template.check.failed", template=template.name, code=error.code.value, error=str(error)
        )
        self._on_change()
