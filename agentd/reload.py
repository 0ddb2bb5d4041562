"""Take settings over while the daemon runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from agentd.engine.engine import Engine
from agentd.engine.trace import Tracer
from agentd.errors import ConfigError
from agentd.log_setup import configure_logging
from agentd.sdnotify import Notifier
from agentd.settings import Settings, plan_reload

Load = Callable[[], Settings]


class Reloader:
    """Reads the settings again whenever it is asked to; settings that cannot be change nothing.

    Args: load: reads and checks all of them, as at the start. settings: those in force.
    """

    def __init__(
        self, load: Load, settings: Settings, engine: Engine, notifier: Notifier, tracer: Tracer
    ) -> None:
        self._load = load
        self._settings = settings
        self._engine = engine
        self._notifier = notifier
        self._tracer = tracer

    async def run(self, asked: asyncio.Event) -> None:
        """Reload each time the event is set, for ever."""
        while True:
            await asked.wait()
            asked.clear()
            await self._reload()

    async def _reload(self) -> None:
        """The manager is told of both ends (sd_notify(3), `RELOADING=1`), whatever comes of it."""
        self._notifier.reloading(time.monotonic_ns() // 1000)
        try:
            self._take(await asyncio.to_thread(self._load))
        except ConfigError as exc:
            self._tracer.step("daemon.reload.failed", error=str(exc), effect="nothing changed")
        finally:
            self._notifier.ready(f"listening on {self._settings.socket}")

    def _take(self, new: Settings) -> None:
        plan = plan_reload(self._settings, new)
        self._settings = plan.settings
        configure_logging(plan.settings.log.level, plan.settings.log.format)
        self._engine.apply(plan.settings)
        if plan.needs_restart:
            self._tracer.step("daemon.reload.needs_restart", keys=" ".join(plan.needs_restart))
        self._tracer.step("daemon.reloaded", changed=" ".join(plan.changed) or "nothing")
