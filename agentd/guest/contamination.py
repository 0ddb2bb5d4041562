"""Decide whether an instance is free of user state, against what it was at its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agentd.guest.observe import FileFacts, Observation
from agentd.guest.prepare import is_within
from agentd.guest.wire import JsonObject

_DETAILS_MAX = 50


@dataclass(frozen=True)
class Reason:
    """One thing that must not be in a snapshot."""

    kind: str
    detail: str

    def as_json(self) -> JsonObject:
        """The protocol's form."""
        return {"kind": self.kind, "detail": self.detail}


@dataclass(frozen=True)
class Interpreter:
    """What the interpreter and the zygote say about themselves."""

    names: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()
    modules: frozenset[str] = frozenset()
    environment: tuple[tuple[str, str], ...] = ()
    execution_count: int = 0
    directory: str = ""


@dataclass(frozen=True)
class Baseline:
    """The instance at its checkpoint; the workspace as it was when the runtime started."""

    system: Observation
    interpreter: Interpreter
    workspace_files: Mapping[str, FileFacts]


@dataclass(frozen=True)
class Present:
    """The instance now. own_pids: the runtime's processes; any other is foreign at any time."""

    system: Observation
    interpreter: Interpreter
    active_tasks: int
    own_pids: frozenset[int]


def find_reasons(baseline: Baseline, now: Present, *, workspace: str) -> list[Reason]:
    """Everything that is beyond the baseline; empty means clean."""
    reasons = [
        *_process_reasons(baseline.system, now),
        *_system_reasons(baseline.system, now.system),
        *_file_reasons(baseline, now.system, workspace),
        *_interpreter_reasons(baseline.interpreter, now.interpreter),
    ]
    if now.active_tasks:
        reasons.append(Reason("task", f"{now.active_tasks} running or waiting"))
    return reasons


def has_user_state(reasons: Iterable[Reason]) -> bool:
    """A session has left something: more than the runtime being busy."""
    return any(reason.kind in ("workspace", "interpreter", "environment") for reason in reasons)


def _process_reasons(before: Observation, now: Present) -> Iterator[Reason]:
    known = {process.pid: process for process in before.processes}
    for process in now.system.processes:
        old = known.get(process.pid, process)
        if process.pid not in now.own_pids:
            yield Reason("process", f"pid {process.pid} {process.name}: {process.cmdline}")
        elif process.threads > old.threads:
            extra = process.threads - old.threads
            yield Reason("thread", f"pid {process.pid} {process.name} has {extra} more")


def _system_reasons(before: Observation, now: Observation) -> Iterator[Reason]:
    yield from _more("socket", before.sockets, now.sockets)
    yield from _more("connection", frozenset(), now.connections)
    yield from _more("open_file", before.open_files, now.open_files)
    yield from _more("mount", before.mounts, now.mounts)


def _more(kind: str, before: frozenset[str], now: frozenset[str]) -> Iterator[Reason]:
    for detail in sorted(now - before)[:_DETAILS_MAX]:
        yield Reason(kind, detail)


def _file_reasons(baseline: Baseline, now: Observation, workspace: str) -> Iterator[Reason]:
    before = {
        path: facts
        for path, facts in baseline.system.files.items()
        if not _is_below(path, workspace)
    }
    before.update(baseline.workspace_files)
    after = now.files
    paths = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    for path in sorted(paths)[:_DETAILS_MAX]:
        change = "added" if path not in before else "changed" if path in after else "removed"
        yield Reason("workspace" if _is_below(path, workspace) else "file", f"{change} {path}")


def _is_below(path: str, workspace: str) -> bool:
    return path != workspace and is_within(path, workspace)


def _interpreter_reasons(before: Interpreter, now: Interpreter) -> Iterator[Reason]:
    for name in now.threads:
        yield Reason("thread", f"interpreter thread {name}")
    # No image has a reason to run code or to leave names, so these count whenever they came.
    if now.names:
        yield Reason("interpreter", f"names {', '.join(sorted(now.names)[:_DETAILS_MAX])}")
    if now.execution_count:
        yield Reason("interpreter", f"{now.execution_count} executions")
    imported = sorted(now.modules - before.modules)
    if imported:
        yield Reason("interpreter", f"modules {', '.join(imported[:_DETAILS_MAX])}")
    if now.directory != before.directory:
        yield Reason("interpreter", f"working directory {now.directory}")
    changed = {name for name, _ in set(now.environment) ^ set(before.environment)}
    for name in sorted(changed)[:_DETAILS_MAX]:
        yield Reason("environment", f"variable {name}")
