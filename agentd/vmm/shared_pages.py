"""Find out whether the kernel makes memory that processes share of huge pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_CHOSEN: Final = re.compile(r"\[(\w+)\]")
# "inherit", of one size, is what is said for all; "force" is for tests of the kernel.
_SMALL: Final = frozenset({"never", "deny", "inherit"})


def has_huge_shared_pages(sys: Path = Path("/sys")) -> bool:
    """Whether one page that is written may bring its neighbours (tmpfs(5), admin-guide/mm/transhuge
    of the kernel). What cannot be read is there.
    """
    pages = sys / "kernel/mm/transparent_hugepage"
    if not pages.is_dir():  # a kernel without any
        return False
    files = [pages / "shmem_enabled", *pages.glob("hugepages-*/shmem_enabled")]
    return any(_chosen(file) not in _SMALL for file in files)


def _chosen(file: Path) -> str:
    try:
        found = _CHOSEN.search(file.read_text())
    except OSError:
        return ""
    return found[1] if found else ""
