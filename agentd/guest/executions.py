"""Run executions one at a time on an interpreter that is replaced when it is lost."""

from __future__ import annotations

import codecs
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from agentd.guest.execute_request import Request
from agentd.guest.hooks import HookError
from agentd.guest.link import LinkError
from agentd.guest.loop import Loop, Timer
from agentd.guest.processes import InterpreterProcess
from agentd.guest.wire import JsonObject

OBEY_S = 2.0
CONGESTED_BYTES = 262144
_TEXT_BYTES = 65536
_RESPAWN_DELAY_S = 1.0


class Sink(Protocol):
    """Where the messages of one execution go."""

    def send(self, message: JsonObject) -> None:
        """Queue one message."""

    def queued_bytes(self) -> int:
        """Bytes not taken yet."""

    def finish(self) -> None:
        """Nothing follows."""


class _Output:
    """One of stdout, stderr of one execution: decoding, limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.left_bytes = limit_bytes
        self.is_truncated = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, data: bytes) -> str:
        if len(data) > self.left_bytes:
            data = data[: self.left_bytes]
            self.is_truncated = True
        self.left_bytes -= len(data)
        return self._decoder.decode(data)


class _Running:
    def __init__(self, request: Request, sink: Sink | None) -> None:
        self.request = request
        self.sink = sink
        self.stop_reason = ""
        self.started_s = 0.0
        self.timer: Timer | None = None
        self.has_begun = False
        self.was_interrupted = False
        self.outputs = {
            "stdout": _Output(request.max_output_bytes),
            "stderr": _Output(request.max_output_bytes),
        }

    def send(self, message: JsonObject) -> None:
        if self.sink is not None:
            self.sink.send(message)


class Executions:
    """The queue, the present execution, the interpreter they run on.

    Args: spawn: makes an interpreter wired to the three callbacks given to it; may raise
    LinkError, HookError. kill_session: ends whatever user code has left running.
    """

    def __init__(
        self,
        loop: Loop,
        spawn: Callable[[Executions], InterpreterProcess],
        kill_session: Callable[[], None],
        *,
        proc: str = "/proc",
    ) -> None:
        self.execution_count = 0
        self.interpreter: InterpreterProcess | None = None
        self._loop = loop
        self._spawn = spawn
        self._kill_session = kill_session
        self._oom_kills_before = 0
        self._vmstat = Path(proc, "vmstat")
        self._queue: deque[_Running] = deque()
        self._current: _Running | None = None

    @property
    def active_count(self) -> int:
        """Executions running or waiting."""
        return len(self._queue) + (self._current is not None)

    @property
    def current_sink(self) -> Sink | None:
        """Where the running execution's messages go."""
        return self._current.sink if self._current is not None else None

    def start_interpreter(self) -> None:
        """Make the interpreter; when that fails, try again a little later."""
        try:
            self.interpreter = self._spawn(self)
            self._oom_kills_before = self._oom_kills()
        except LinkError:
            self._loop.call_later(_RESPAWN_DELAY_S, self.start_interpreter)
            return
        except HookError as exc:
            self._refuse_waiting(str(exc))
            self._loop.call_later(_RESPAWN_DELAY_S, self.start_interpreter)
            return
        self._start_next()

    def _refuse_waiting(self, why: str) -> None:
        """No interpreter may serve before its hooks have run: what waits gets the reason."""
        print(f"snapstart: a new interpreter: {why}", file=sys.stderr, flush=True)
        while self._queue:
            sink = self._queue.popleft().sink
            if sink is not None:
                sink.send({"type": "failed", "code": "hook_failed", "message": why})
                sink.finish()

    def submit(self, request: Request, sink: Sink) -> None:
        """Run it now, or when those before it are done."""
        self._queue.append(_Running(request, sink))
        self._start_next()

    def abandon(self, sink: Sink) -> None:
        """Nobody listens: drop it if it waits, drop its output if it runs."""
        if self._current is not None and self._current.sink is sink:
            self._current.sink = None
            self.resume_output()
        for waiting in list(self._queue):
            if waiting.sink is sink:
                self._queue.remove(waiting)

    def interrupt(self, sink: Sink | None = None) -> None:
        """KeyboardInterrupt in the running execution, or in that of `sink`; ends a waiting one."""
        current = self._current
        if current is not None and sink in (None, current.sink):
            current.stop_reason = current.stop_reason or "interrupted"
            self._interrupt(current)
            return
        for waiting in list(self._queue):
            if sink is not None and waiting.sink is sink:
                self._queue.remove(waiting)
                self._finish(waiting, "interrupted", "it had not begun")

    def restart(self) -> None:
        """A fresh interpreter; the running execution ends as `interrupted`."""
        if self._current is not None:
            self._current.stop_reason = "interrupted"
        if self.interpreter is not None:
            self.interpreter.kill("restart was asked for")

    def resume_output(self) -> None:
        """The sink has room again."""
        if self.interpreter is not None:
            self.interpreter.resume_output()

    # -- one execution --------------------------------------------------------------------

    def _start_next(self) -> None:
        if self._current is not None or not self._queue:
            return
        if self.interpreter is None or self.interpreter.end_reason:
            return  # the next one begins when its successor is ready
        self._current = current = self._queue.popleft()
        request = current.request
        current.started_s = time.monotonic()
        self.execution_count += not request.is_rehearsal
        if request.timeout_s is not None:
            current.timer = self._loop.call_later(request.timeout_s, self._timed_out)
        self.interpreter.link.send(
            {
                "type": "execute",
                "code": request.code,
                "env": request.env,
                "max_result_bytes": request.max_result_bytes,
                "rehearsal": request.is_rehearsal,
                "execution_count": self.execution_count,
            }
        )

    def _oom_kills(self) -> int:
        try:
            text = self._vmstat.read_bytes()
        except OSError:
            return 0
        at = text.find(b"\noom_kill ")
        return int(text[at + 10 :].split(None, 1)[0]) if at >= 0 else 0

    def _timed_out(self) -> None:
        current = self._current
        if current is None or self.interpreter is None:
            return
        current.stop_reason = "timeout"
        self._interrupt(current)
        current.timer = self._loop.call_later(OBEY_S, self._kill_disobedient)

    def _interrupt(self, current: _Running) -> None:
        """Before the code has begun nothing would come of it: then it is put off until that."""
        if current.has_begun and self.interpreter is not None:
            self.interpreter.interrupt()

    def _begun(self, current: _Running) -> None:
        current.has_begun = True
        if current.stop_reason:
            self._interrupt(current)

    def _kill_disobedient(self) -> None:
        if self._current is not None and self.interpreter is not None:
            self.interpreter.kill("it did not obey the interrupt")

    def on_output(self, name: str, data: bytes) -> None:
        """Bytes of the interpreter's stdout or stderr; between executions they are dropped."""
        current = self._current
        if current is None:
            return
        text = current.outputs[name].decode(data)
        for at in range(0, len(text), _TEXT_BYTES):
            current.send({"type": name, "text": text[at : at + _TEXT_BYTES]})
        if (
            self.interpreter is not None
            and current.sink is not None
            and current.sink.queued_bytes() > CONGESTED_BYTES
        ):
            self.interpreter.pause_output()

    def on_message(self, message: JsonObject) -> None:
        """A control message of the interpreter."""
        current = self._current
        if current is None:
            return
        kind = message.get("type")
        if kind == "begun":
            self._begun(current)
        elif kind == "end":
            self._ended(current, message)
        elif kind in ("result", "error"):
            if kind == "error" and message.get("name") == "KeyboardInterrupt":
                current.was_interrupted = True
            current.send(message)

    def _ended(self, current: _Running, message: JsonObject) -> None:
        if self.interpreter is not None:
            self.interpreter.drain()
        status = str(message.get("status"))
        if current.stop_reason == "timeout":
            status = "timeout"
        elif current.stop_reason and current.was_interrupted:
            status = "interrupted"
        self._finish(current, status, str(message.get("detail", "")))
        self._current = None
        self.resume_output()
        self._start_next()

    def on_exit(self, wait_status: int) -> None:
        """The interpreter has ended; its namespace is lost."""
        interpreter, current = self.interpreter, self._current
        self.interpreter = None
        if current is not None and interpreter is not None:
            status, detail = self._classify(current, interpreter, wait_status)
            self._finish(current, status, detail, is_lost=True)
        self._current = None
        self._kill_session()
        self.start_interpreter()

    def _classify(
        self, current: _Running, interpreter: InterpreterProcess, wait_status: int
    ) -> tuple[str, str]:
        if current.stop_reason and interpreter.end_reason:
            return current.stop_reason, f"killed: {interpreter.end_reason}"
        if os.WIFEXITED(wait_status):
            return "exited", str(os.WEXITSTATUS(wait_status))
        number = os.WTERMSIG(wait_status)
        if number == signal.SIGKILL and self._oom_kills() > self._oom_kills_before:
            return "out_of_memory", "the kernel killed the interpreter for want of memory"
        if number == signal.SIGKILL and interpreter.end_reason:
            return "signalled", f"SIGKILL: {interpreter.end_reason}"
        return "signalled", _signal_name(number)

    def _finish(self, run: _Running, status: str, detail: str, *, is_lost: bool = False) -> None:
        if run.timer is not None:
            run.timer.cancel()
        duration_s = time.monotonic() - run.started_s if run.started_s else 0.0
        message: JsonObject = {
            "type": "end",
            "status": status,
            "detail": detail,
            "execution_count": self.execution_count,
            "duration_s": round(duration_s, 6),
            "stdout_truncated": run.outputs["stdout"].is_truncated,
            "stderr_truncated": run.outputs["stderr"].is_truncated,
        }
        if is_lost:
            message["namespace_lost"] = True
        run.send(message)
        if run.sink is not None:
            run.sink.finish()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
