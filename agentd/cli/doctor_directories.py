"""Judge the directories that agentd calls its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.cli.doctor_checks import Check, Level
from agentd.engine.home import find_replaceable
from agentd.units import MIB

# Below it new sessions are refused soon: each has a journal entry, sockets, a log there.
_MIN_RUN_MIB: Final = 16
_MIN_RUN_FILES: Final = 1024


@dataclass(frozen=True)
class DirectoryFacts:
    """problem: why agentd could not use it, empty if it can. free_files: None: without a limit."""

    setting: str
    path: Path
    problem: str
    free_bytes: int
    free_files: int | None


def gather_directory(setting: str, path: Path, uids: Sequence[int]) -> DirectoryFacts:
    """Look at one. uids: who agentd may be; one of them has to be able to use it."""
    try:
        room = os.statvfs(_there(path))
        problems = [_find_problem(path, uid) for uid in uids]
    except OSError as exc:
        return DirectoryFacts(setting, path, f"looking at it: {exc.strerror}", 0, None)
    files = room.f_favail if room.f_files else None
    problem = problems[0] if all(problems) else ""
    return DirectoryFacts(setting, path, problem, room.f_bavail * room.f_frsize, files)


def judge_directories(data: DirectoryFacts, run: DirectoryFacts) -> Check:
    """Whether agentd may use both, and whether its run directory has room."""
    name = "directories"
    bad = [one for one in (data, run) if one.problem]
    if bad:
        detail = "; ".join(f"{one.setting} {one.path}: {one.problem}" for one in bad)
        hint = f"make {bad[0].setting} a directory of agentd's user alone, below root's and its own"
        return Check(name, Level.FAIL, detail, hint)
    detail = f"{_told([data, run])}; {run.free_bytes // MIB} MiB free in {run.path}"
    if run.free_files is not None and run.free_files < _MIN_RUN_FILES:
        hint = f"have room for {_MIN_RUN_FILES} files there: each session makes some"
        return Check(name, Level.WARN, f"{detail}, for {run.free_files} files", hint)
    if run.free_bytes < _MIN_RUN_MIB * MIB:
        hint = f"free {_MIN_RUN_MIB} MiB there: without, new sessions are refused"
        return Check(name, Level.WARN, detail, hint)
    return Check(name, Level.OK, detail)


def _told(found: Sequence[DirectoryFacts]) -> str:
    return ", ".join(f"{one.setting} {one.path}" for one in found)


def _there(path: Path) -> Path:
    """It, or the nearest directory above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def _find_problem(path: Path, uid: int) -> str:
    """As the start of agentd refuses it."""
    if parent := find_replaceable(path, uid):
        return f"others can replace {parent}"
    there = _there(path)
    if not there.is_dir():
        return f"{there} is no directory"
    if there != path:
        is_ours = uid != os.geteuid() or os.access(there, os.W_OK)
        return "" if is_ours else f"it is not there, and uid {uid} cannot make it in {there}"
    owner = path.stat().st_uid
    return "" if owner == uid else f"it belongs to uid {owner}, agentd is uid {uid}"
