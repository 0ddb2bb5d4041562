"""Build the programs of the torture run, and name them."""

from __future__ import annotations

import fcntl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD_DIR: Final = ROOT / "build" / "torture"


@dataclass(frozen=True)
class Programs:
    """Where they were built."""

    directory: Path

    @property
    def pager(self) -> Path:
        """The page server, built to die where it is told."""
        return self.directory / "snap-pager-torture"

    @property
    def machine(self) -> Path:
        return self.directory / "standin_vm"

    @property
    def image(self) -> Path:
        return self.directory / "standin_image"


def build_programs(directory: Path = BUILD_DIR) -> Programs:
    """What is up to date is not built again. Raises: RuntimeError with the compiler's words."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["make", "-s", "-C", str(ROOT / "native"), f"O={directory}", "torture"]
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return Programs(directory)
