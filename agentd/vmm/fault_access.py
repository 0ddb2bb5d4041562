"""Find out who may make a userfaultfd on a host."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FOR_ALL: Final = 0o006


@dataclass(frozen=True)
class FaultAccess:
    """Who may make a userfaultfd that sees a guest's faults.

    sysctl: vm.unprivileged_userfaultfd. device_mode: of /dev/userfaultfd, None if there is none.
    """

    sysctl: str
    device_mode: int | None

    @classmethod
    def read(cls, proc: Path = Path("/proc"), dev: Path = Path("/dev")) -> FaultAccess:
        """As this host has it."""
        try:
            sysctl = (proc / "sys/vm/unprivileged_userfaultfd").read_text().strip()
        except OSError:
            sysctl = ""
        try:
            mode = stat.S_IMODE((dev / "userfaultfd").stat().st_mode)
        except OSError:
            return cls(sysctl, None)
        return cls(sysctl, mode)

    def is_open_to(self, *, is_root: bool) -> bool:
        """Whether machines may: as root, or as users of their own."""
        is_for_all = self.device_mode is not None and self.device_mode & _FOR_ALL == _FOR_ALL
        return is_root or is_for_all or self.sysctl == "1"
