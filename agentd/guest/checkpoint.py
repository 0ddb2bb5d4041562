"""Report whether this instance may be snapshotted, taking the baseline it is judged against."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

from agentd.guest.contamination import (
    Baseline,
    Interpreter,
    Present,
    Reason,
    find_reasons,
    has_user_state,
)
from agentd.guest.observe import NOBODY, Observation, Poller, observe, scan_files
from agentd.guest.session import Session
from agentd.guest.settings import Settings
from agentd.guest.wire import JsonObject


class Checkpoint:
    """The instance's evidence of being clean.

    Args: inspect: asks interpreter and zygote about themselves; raises when one is busy or dead.
    active_tasks: executions and commands running or waiting. is_listening: it waits for a
    session. own_pids: the runtime's processes beside this one. problems: what start-up could not
    do, as reasons that stay.
    """

    def __init__(
        self,
        settings: Settings,
        session: Session,
        *,
        inspect: Callable[[], Interpreter],
        active_tasks: Callable[[], int],
        is_listening: Callable[[], bool],
        own_pids: Callable[[], set[int]],
        problems: list[Reason],
    ) -> None:
        self._settings = settings
        self._session = session
        self._inspect = inspect
        self._active_tasks = active_tasks
        self._is_listening = is_listening
        self._own_pids = own_pids
        self._problems = problems
        self._workspace_files = scan_files([settings.workspace])
        self._baseline: Baseline | None = None

    def take_baseline(self) -> None:
        """From now on, what is here is the runtime's own; the workspace was judged at the start."""
        self._baseline = Baseline(self._observe(), self._inspect(), self._workspace_files)

    def _observe(self, poller: Poller = NOBODY) -> Observation:
        roots = (self._settings.workspace, *self._settings.file_roots)
        return observe(self._settings.proc, roots, root_pid=os.getpid(), poller=poller)

    def report(self, poller: Poller = NOBODY) -> JsonObject:
        """The `status` message; the connection that asks for it does not count."""
        system = self._observe(poller)
        active = self._active_tasks()
        reasons, interpreter = self._reasons(system, active)
        is_loaded = has_user_state(reasons) or self._session.is_injected
        is_waiting = not self._session.is_open and self._is_listening()
        baseline = self._baseline
        return {
            "checkpoint": self._settings.checkpoint,
            "safeToSnapshot": is_waiting and not reasons and not is_loaded and baseline is not None,
            "userStateLoaded": is_loaded,
            "activeTasks": active,
            "details": {
                "interpreterState": "busy" if active else "idle" if interpreter else "unknown",
                "workspaceEmpty": all(reason.kind != "workspace" for reason in reasons),
                "preloadedPackages": list(self._settings.preload),
            },
            "gate": self._session.gate,
            "reasons": [reason.as_json() for reason in reasons],
            "processes": [process.as_json() for process in system.processes],
            "baseline_processes": [
                process.as_json() for process in (baseline.system.processes if baseline else ())
            ],
            "runtime": {
                "version": self._settings.version,
                "python": platform.python_version(),
                "kernel": platform.release(),
            },
        }

    def _reasons(self, system: Observation, active: int) -> tuple[list[Reason], Interpreter | None]:
        reasons = list(self._problems)
        baseline = self._baseline
        if baseline is None:
            return reasons, None
        interpreter: Interpreter | None = None
        if not active:
            try:
                interpreter = self._inspect()
            except Exception as exc:
                reasons.append(Reason("interpreter", f"it cannot be asked: {exc}"))
        own_pids = frozenset(self._own_pids() | {os.getpid()})
        present = Present(system, interpreter or baseline.interpreter, active, own_pids)
        reasons += find_reasons(baseline, present, workspace=self._settings.workspace)
        return reasons, interpreter
