"""Judge what an sdist, a wheel hold."""

from __future__ import annotations

import re
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

# Path in a wheel to whether it is executed; * is what differs from build to build.
WHEEL: Final = {
    r"agentd/_core\..*\.so": True,
    r"agentd/_cold\..*\.so": True,
    r"agentd/snap-pager": True,
    r"agentd/_version\.py": False,
    r"agentd/_core\.pyi": False,
    r"agentd/_cold\.pyi": False,
    r"agentd/py\.typed": False,
    r"agentd/guest/__main__\.py": False,
    r"agentd/kuasar/pb/cri_pb2\.py": False,
    r"agentd/kuasar/pb/cri_pb2\.pyi": False,
    r"agentd/kuasar/pb/sandbox_pb2\.py": False,
    r"agentd/kuasar/pb/ssi_pb2\.py": False,
    r"controlplane/cli\.py": False,
    r"[^/]*\.data/data/share/snapstart/agentd\.service": False,
    r"[^/]*\.dist-info/licenses/LICENSE": False,
    r"[^/]*\.dist-info/entry_points\.txt": False,
}
WHEEL_TOPS: Final = re.compile(r"(agentd|controlplane|[^/]*\.(dist-info|data))/")
SDIST: Final = (
    "PKG-INFO",
    "pyproject.toml",
    "setup.py",
    "LICENSE",
    "README.md",
    "native/Makefile",
    "native/core/fork.c",
    "native/core/fork.h",
    "native/pager/main.c",
    "native/shim/core.pyx",
    "native/shim/build_cold.py",
    "agentd/kuasar/pb/cri.proto",
    "agentd/_core.pyi",
    "systemd/agentd.service",
)
# What a build makes: an sdist that held it would hand somebody else's to the next build.
MADE: Final = re.compile(
    r"\.(so|o|pyc)$|_pb2\.pyi?$|/snap-pager$|/_version\.py$|native/shim/[^/]*\.c$"
)
_EXECUTED: Final = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


def read_wheel(path: Path) -> dict[str, int]:
    """Mode by name of each member."""
    with zipfile.ZipFile(path) as archive:
        return {item.filename: item.external_attr >> 16 for item in archive.infolist()}


def read_sdist(path: Path) -> set[str]:
    """The files, without the directory that all are in."""
    with tarfile.open(path) as archive:
        return {item.name.partition("/")[2] for item in archive if item.isfile()}


def wheel_problems(members: Mapping[str, int]) -> list[str]:
    """What is missing, is not executable or is, has no place there."""
    found = [problem for row in WHEEL.items() if (problem := _member_problem(members, *row))]
    strange = [name for name in members if not WHEEL_TOPS.match(name)]
    return found + [f"{name} has no place in the wheel" for name in strange]


def _member_problem(members: Mapping[str, int], pattern: str, is_executed: bool) -> str:
    names = [name for name in members if re.fullmatch(pattern, name)]
    if len(names) != 1:
        return f"{pattern} is in the wheel {len(names)} times"
    if (members[names[0]] & _EXECUTED == _EXECUTED) != is_executed:
        return f"{names[0]} has mode {members[names[0]]:o}"
    return ""


def sdist_problems(names: Iterable[str]) -> list[str]:
    """What is missing, what is a build's and not a source."""
    present = set(names)
    missing = [f"{name} is not in the sdist" for name in SDIST if name not in present]
    return missing + [
        f"{name} is made by the build" for name in sorted(present) if MADE.search(name)
    ]
