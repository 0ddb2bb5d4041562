"""Start the real page server on kept journals."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import SnapStartError
from agentd.pager.client import PagerClient
from agentd.pager.places import own_binary

_END_S: Final = 20.0


@dataclass(frozen=True)
class Pager:
    """One that was started. journal_dir: a copy, on a tmpfs."""

    process: subprocess.Popen[str]
    control: Path
    journal_dir: Path

    def answers(self) -> bool:
        """Whether it serves."""
        try:
            asyncio.run(PagerClient(self.control).hello(deadline_s=_END_S))
        except SnapStartError:
            return False
        return True


@contextmanager
def begins(kept: Path) -> Iterator[Pager]:
    """It is ended with the block."""
    with tempfile.TemporaryDirectory(prefix="formats-", dir="/dev/shm") as made:
        journal_dir, control = Path(made) / "journal", Path(made) / "control"
        journal_dir.mkdir()
        for path in kept.glob("*.vm"):
            shutil.copy(path, journal_dir)
        argv = [str(own_binary()), "serve", "--control", str(control)]
        argv += ["--journal", str(journal_dir)]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield Pager(process, control, journal_dir)
            finally:
                process.terminate()
                process.communicate(timeout=_END_S)


def leaves(pager: Pager) -> list[str]:
    """The journals that are there."""
    return sorted(path.name for path in pager.journal_dir.glob("*.vm"))
