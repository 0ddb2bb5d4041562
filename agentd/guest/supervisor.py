"""Wire the runtime together: what runs, in which order, how it ends."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from agentd.guest import http_auth, rehearsal
from agentd.guest.checkpoint import Checkpoint
from agentd.guest.contamination import Interpreter, Reason
from agentd.guest.effects import PROCESS_STEPS, Effects, Renew, SystemEffects, apply_plan
from agentd.guest.executions import Executions
from agentd.guest.files_service import FilesService
from agentd.guest.hooks import HookError
from agentd.guest.http_bridge import HttpBridge
from agentd.guest.inject import InjectServer
from agentd.guest.link import LinkError
from agentd.guest.loop import Loop
from agentd.guest.prepare import Plan
from agentd.guest.processes import InterpreterProcess, SessionProcesses, Zygote
from agentd.guest.services import (
    CheckpointService,
    ExecuteService,
    SignalService,
    StatusService,
)
from agentd.guest.session import Session
from agentd.guest.settings import Settings, clean_environment
from agentd.guest.streams import Factory, Handler, RefusedError, Stream
from agentd.guest.sysapi import PR_SET_CHILD_SUBREAPER, prctl
from agentd.guest.warmfork import State, WarmFork
from agentd.guest.wire import JsonObject

CONFIRM_DEADLINE_S = 10.0
QUIESCE_DEADLINE_S = 60.0

MakeEffects = Callable[[Settings, Session, Renew], Effects]


class Supervisor:
    """The runtime of one instance.

    Args: make_effects: how a plan becomes true; an image for tests may pass its own to `main`.
    """

    def __init__(self, settings: Settings, make_effects: MakeEffects = SystemEffects) -> None:
        environment = clean_environment(os.environ, settings)
        self.settings = settings = replace(settings, environment=environment)
        is_open = not settings.is_gated
        self.session = Session(settings, is_open, settings.workspace, auth_key=settings.auth_key)
        self.loop = Loop()
        self.exit_status = 0
        self.exit_reason = "asked to"
        self._problems: list[Reason] = []
        self._zygote: Zygote | None = None
        self._processes = SessionProcesses(settings, self._known_pids)
        self.executions = Executions(
            self.loop, self._spawn, self._processes.kill_all, proc=settings.proc
        )
        self._effects = make_effects(settings, self.session, self._renew)
        fork = WarmFork(workspace_root=settings.workspace)
        self.inject = InjectServer(self.loop, fork, apply=self._apply, leave=self.leave)
        self.checkpoint = Checkpoint(
            settings,
            self.session,
            inspect=self._inspect,
            active_tasks=lambda: self.executions.active_count + self.http.active_tasks,
            is_listening=lambda: self.inject.is_listening,
            own_pids=self._own_pids,
            problems=self._problems,
        )
        self.http = HttpBridge(self.loop, settings, self.session, self.checkpoint.report)

    # -- life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Everything up to waiting for a host; raises when the runtime cannot be had."""
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._start_zygote()
        self.loop.watch_children()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self.leave(0, "terminated"))
        self.executions.start_interpreter()
        if self.executions.interpreter is None:
            raise LinkError("the first interpreter did not start")
        rehearsal.run(self)
        gc.collect()
        gc.freeze()
        gc.disable()

    def wait_for_session(self) -> None:
        """Take the baseline, then listen: whoever connects finds the instance at rest."""
        if self.settings.is_gated and not self.settings.is_vm:
            self.quiesce()
        if self.settings.http_host:
            self.http.start()
        if self.settings.is_gated:
            self.inject.listen(self.settings.inject_socket)
        self.checkpoint.take_baseline()

    def leave(self, status: int, reason: str) -> None:
        """End the runtime."""
        self.exit_status, self.exit_reason = status, reason
        self.loop.stop()

    def close(self) -> None:
        """End every process of ours; release every descriptor and file."""
        self.inject.close()
        self.http.close()
        interpreter = self.executions.interpreter
        self._processes.kill_all()
        if interpreter is not None:
            interpreter.abandon()
            interpreter.kill("the runtime ends")
        if self._zygote is not None:
            self._zygote.close()
            with suppress(ProcessLookupError):
                os.kill(self._zygote.pid, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        self.loop.close()

    # -- services -------------------------------------------------------------------------

    def services(self) -> Mapping[str, Factory]:
        """What a host can open a stream for."""
        return {
            "inject": self._open_inject,
            "status": lambda stream, _: StatusService(stream, self.checkpoint),
            "execute": lambda stream, _: ExecuteService(stream, self.session, self.executions),
            "files": lambda stream, params: FilesService(stream, params, self.session),
            "http": lambda stream, _: self.http.open_stream(stream),
            "signal": lambda stream, _: SignalService(stream, self.executions, self._shut_down),
            "checkpoint": lambda stream, _: CheckpointService(
                stream, self.session, self.checkpoint, self.quiesce
            ),
        }

    @property
    def _open_inject(self) -> Factory:
        if not self.settings.is_gated:
            return _refuse_open_gate
        return self.inject.open_stream

    def _shut_down(self) -> None:
        # A turn of the loop first, so that the answer leaves.
        self.loop.call_later(0.05, lambda: self.leave(0, "shut down by the host"))

    # -- processes ------------------------------------------------------------------------

    def _start_zygote(self) -> None:
        zygote = Zygote(self.settings)
        self._zygote = zygote
        zygote.wait_until_preloaded()
        self.loop.on_exit(zygote.pid, self._zygote_died)
        self._problems[:] = [
            Reason("interpreter", f"preloading {name}: {why}")
            for name, why in zygote.failed_preloads.items()
        ]

    def _zygote_died(self, _status: int) -> None:
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    def _own_pids(self) -> set[int]:
        interpreter = self.executions.interpreter
        return self._known_pids() | ({interpreter.pid} if interpreter is not None else set())

    def _known_pids(self) -> set[int]:
        known = {self._zygote.pid} if self._zygote is not None else set()
        return known | self.http.pids()

    def _spawn(self, executions: Executions) -> InterpreterProcess:
        if self._zygote is None:
            self._start_zygote()
        assert self._zygote is not None
        process = InterpreterProcess(
            self.loop,
            self._zygote,
            on_message=executions.on_message,
            on_output=executions.on_output,
            on_exit=executions.on_exit,
        )
        if self.inject.fork.state is State.STARTED:
            try:
                self._renew_successor(process)
            except Exception:
                process.abandon()
                process.kill("it could not be renewed")
                raise
        return process

    def _renew_successor(self, process: InterpreterProcess) -> None:
        """What the lost interpreter went through after the restore; its start has reseeded it."""
        request = {
            "type": "renew",
            "steps": [step for step in PROCESS_STEPS if step != "reseed"],
            "environment": self.session.environment,
            "directory": self.session.workspace,
        }
        answer = process.link.ask(request, ("renewed", "failed"), CONFIRM_DEADLINE_S)
        _confirm("interpreter", answer)

    def _renew(self, steps: Sequence[str], environment: Mapping[str, str], directory: str) -> None:
        zygote, interpreter = self._both()
        request = {
            "type": "renew",
            "steps": steps,
            "environment": environment,
            "directory": directory,
        }
        own = [step for step in steps if step in ("reseed", "hooks")]
        zygote.send({"type": "renew", "steps": own})
        interpreter.link.send(request)
        self._confirm_both("renewed", CONFIRM_DEADLINE_S)

    def _confirm_both(self, answer: str, deadline_s: float) -> None:
        """Both answers are taken before either is judged, or the next would get the wrong one."""
        zygote, interpreter = self._both()
        said = interpreter.link.wait((answer, "failed"), deadline_s)
        zygote_said = zygote.receive(deadline_s)
        _confirm("interpreter", said)
        _confirm("zygote", zygote_said)

    def _both(self) -> tuple[Zygote, InterpreterProcess]:
        zygote, interpreter = self._zygote, self.executions.interpreter
        if zygote is None or interpreter is None:
            raise LinkError("the interpreter is not running")
        return zygote, interpreter

    def _inspect(self) -> Interpreter:
        zygote, interpreter = self._both()
        zygote_says = zygote.ask({"type": "inspect"}, CONFIRM_DEADLINE_S)
        says = interpreter.link.ask({"type": "inspect"}, ("inspected",), CONFIRM_DEADLINE_S)
        return Interpreter(
            names=tuple(says["names"]),
            threads=(*says["threads"], *(f"{name} (zygote)" for name in zygote_says["threads"])),
            modules=frozenset(says["modules"]),
            environment=tuple(sorted(says["environment"].items())),
            execution_count=self.executions.execution_count,
            directory=says["directory"],
        )

    def quiesce(self) -> None:
        """Warm what checks tokens, then the HTTP process that inherits it: the slow parts of a
        session's first request. Run the hooks before a snapshot in every process that runs code.
        Raises when one fails."""
        http_auth.warm()
        gc.freeze()
        self.http.warm()
        zygote, interpreter = self._both()
        zygote.send({"type": "quiesce"})
        interpreter.link.send({"type": "quiesce"})
        self._confirm_both("quiesced", QUIESCE_DEADLINE_S)

    def rehearse_processes(self, steps: Sequence[str]) -> None:
        """`_renew` without a session."""
        self._renew(steps, {}, self.settings.workspace)

    # -- the session ----------------------------------------------------------------------

    def _apply(self, plan: Plan) -> None:
        apply_plan(self._effects, plan)
        if plan.auth_key:
            self.session.auth_key = plan.auth_key
        self.session.is_open = True


def _confirm(process: str, answer: Mapping[str, object]) -> None:
    if answer.get("type") == "failed":
        raise HookError(f"{process}: {answer.get('message')}")


def _refuse_open_gate(_stream: Stream, _params: JsonObject) -> Handler:
    raise RefusedError("gate_open", "the gate of this instance was never closed")
