"""Read whole templates in the background: record their digest, verify them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from agentd.engine.tasks import Tasks
from agentd.engine.template import Template
from agentd.engine.threads import in_thread
from agentd.engine.trace import Tracer
from agentd.errors import SnapStartError
from agentd.store.load import Verified
from agentd.store.progress import Steps
from agentd.store.templates import TemplateStore

_NICE: Final = 19  # setpriority(2): forks go first


class Checks:
    """Reads templates in one thread of low priority, one at a time; `close` ends it.

    Args: on_unusable: called with a template that turned out not to be what was sealed.
    """

    def __init__(
        self,
        store: TemplateStore,
        tasks: Tasks,
        tracer: Tracer,
        on_unusable: Callable[[Template, SnapStartError], None],
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._tracer = tracer
        self._on_unusable = on_unusable
        self._pool = ThreadPoolExecutor(1, "template-check", _let_others_go_first)

    def record_digest(self, template: Template) -> None:
        """Begin to record the SHA-256 of a template's memory; `template.digesting` runs."""
        template.digesting = self._tasks.start(
            f"template-digest:{template.name}", self._record_digest(template)
        )

    async def _record_digest(self, template: Template) -> None:
        try:
            sha256 = await in_thread(lambda fd: self._digest(template, fd), pool=self._pool)
        except SnapStartError as exc:
            self._tracer.step("template.digest.failed", template=template.name, error=str(exc))
            self._on_unusable(template, exc)
        else:
            self._tracer.step("template.digest.complete", template=template.name, sha256=sha256)
        finally:
            template.digesting = None

    def _digest(self, template: Template, cancel_fd: int) -> str:
        """Of the memory that is there, else of a copy that is given back at once."""
        steps = Steps(cancel_fd=cancel_fd)
        if template.memory is not None:
            return self._store.write_digest(template.memory, steps)
        loaded = self._store.load(template.name, steps)
        try:
            return self._store.write_digest(loaded, steps)
        finally:
            loaded.close()

    async def stop_digest(self, template: Template) -> None:
        """Stop recording; a later start of the daemon begins again."""
        if template.digesting is not None:
            template.digesting.cancel()
            await asyncio.wait({template.digesting})

    async def verify(self, template: Template) -> Verified:
        """Read a template's every byte from disk.

        Raises: as `TemplateStore.verify`. Cancellation: stops within a chunk.
        """
        try:
            return await in_thread(
                lambda fd: self._store.verify(template.name, Steps(cancel_fd=fd)), pool=self._pool
            )
        except SnapStartError as exc:
            self._on_unusable(template, exc)
            raise

    def close(self) -> None:
        """End the thread. Nothing may be running. Idempotent."""
        self._pool.shutdown()


def _let_others_go_first() -> None:
    """Linux gives each thread a priority of its own (setpriority(2), "C library/kernel")."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
