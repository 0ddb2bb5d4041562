"""Compare what a file system held with what it holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# Not of the disk: kernel, devices.
_OUTSIDE = ("dev", "proc", "sys")
Tree = Mapping[str, tuple[int, int, int]]


def read_tree(root: Path) -> Tree:
    """Mode, size, time of last change by path; of directories the mode alone."""
    return dict(_walk(root))


def _walk(root: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for folder, names, files in os.walk(root):
        if Path(folder) == root:
            names[:] = [name for name in names if name not in _OUTSIDE]
        for name in (*names, *files):
            path = Path(folder, name)
            found = path.lstat()
            is_dir = stat.S_ISDIR(found.st_mode)
            size, when = (0, 0) if is_dir else (found.st_size, found.st_mtime_ns)
            yield f"/{path.relative_to(root)}", (found.st_mode, size, when)


def left_behind(before: Tree, after: Tree) -> list[str]:
    """The topmost paths that were not there, and those that were changed."""
    return topmost(path for path, facts in after.items() if before.get(path) != facts)


def topmost(paths: Iterable[str]) -> list[str]:
    """Without those below another one."""
    kept: list[str] = []
    for path in sorted(paths, key=lambda path: path.split("/")):
        if not kept or not path.startswith(f"{kept[-1]}/"):
            kept.append(path)
    return kept
