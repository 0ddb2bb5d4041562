"""Set the wall clock of one process, by libfaketime (Debian: libfaketime)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

HOUR_S = 3600


class WallClock:
    """Of every process that was started with `environ`; other clocks of it run on as they are."""

    def __init__(self, directory: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not found:
            pytest.skip("libfaketime is not installed")
        self._file = directory / "wall-clock"
        self._library = found[0]
        self.set_off(0)

    def set_off(self, seconds: int) -> None:
        """Let it be wrong by so much, from now on."""
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{seconds:+d}s\n")
        beside.rename(self._file)

    @property
    def environ(self) -> Mapping[str, str]:
        """For processes that shall have this clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
