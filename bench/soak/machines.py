"""Keep a page server of its own in a thread, and let machines live on it."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from agentd.pager.places import own_binary
from tests.integration.pager.service import Service, service_of
from tests.torture.programs import build_programs

T = TypeVar("T")
_SETTLE_S = 30.0


class PageServer:
    """The product's page server with its keeper; machines are stand-ins that check every byte."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pager")
        self._is_over = asyncio.Event()
        self._is_ready = threading.Event()
        self._main: asyncio.Future[None] | None = None
        self._number = 0
        self.service: Service

    @property
    def pid(self) -> int:
        """Of the page server that runs."""
        return self.service.host.pid

    @property
    def journal_dir(self) -> Path:
        """Where its journals are."""
        return self.service.files.journal_dir

    def live(self) -> None:
        """One machine's life. Raises: MachineLostError, AssertionError."""
        self._number += 1
        self._call(self._live(f"vm-{self._number}"))

    def replace(self) -> None:
        """As an upgrade does."""
        self._call(self._replace())

    def __enter__(self) -> Self:
        self._thread.start()
        self._main = asyncio.run_coroutine_threadsafe(self._serve(), self._loop)  # type: ignore[assignment]
        self._is_ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._is_over.set)
        assert self._main is not None
        self._main.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _serve(self) -> None:
        try:
            programs = await asyncio.to_thread(build_programs)
            with tempfile.TemporaryDirectory(prefix="soak-") as made:
                async with service_of(programs, Path(made), has_keeper=True) as self.service:
                    self.service.host.program = own_binary()
                    await self.service.begin()
                    self.service.image()
                    self._is_ready.set()
                    await self._is_over.wait()
        finally:
            self._is_ready.set()

    async def _live(self, name: str) -> None:
        machine = await self.service.machine(name)
        try:
            await self.service.served(name)
            for command in ("random 300", "verify"):
                said = await machine.say(command)
                assert said.wrong == 0, f"{name}: {said.wrong} bytes are wrong"
        finally:
            await machine.close()
        await self.service.host.client.forget(name)
        async with asyncio.timeout(_SETTLE_S):
            while (await self.service.host.client.stats()).machines:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _replace(self) -> None:
        assert await self.service.end(signal.SIGTERM) == 0
        await self.service.begin()
