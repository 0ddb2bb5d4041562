"""Watch how little memory the host has left."""

from __future__ import annotations

import threading
from typing import Self

import psutil


class LowWater:
    """bytes: the least that was available in a block, looked at ten times a second."""

    def __init__(self) -> None:
        self.bytes = psutil.virtual_memory().available
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="low-water")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            self.bytes = min(self.bytes, psutil.virtual_memory().available)
