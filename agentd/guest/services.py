"""Serve the short services: status, checkpoint, execute, signal."""

from __future__ import annotations

import sys
from collections.abc import Callable

from agentd.guest.checkpoint import Checkpoint
from agentd.guest.execute_request import RequestError, parse_request
from agentd.guest.executions import Executions
from agentd.guest.hooks import explain
from agentd.guest.session import Session
from agentd.guest.streams import MessageHandler, RefusedError, Stream
from agentd.guest.wire import JsonObject


class StatusService(MessageHandler):
    """One report, at once."""

    def __init__(self, stream: Stream, checkpoint: Checkpoint) -> None:
        super().__init__(stream)
        stream.send(checkpoint.report())
        stream.finish()


class CheckpointService(MessageHandler):
    """The last step before a snapshot; only while the gate is closed."""

    def __init__(
        self,
        stream: Stream,
        session: Session,
        checkpoint: Checkpoint,
        quiesce: Callable[[], None],
    ) -> None:
        super().__init__(stream)
        if session.is_open:
            raise RefusedError("gate_open", "the instance has its session")
        self._checkpoint = checkpoint
        self._quiesce = quiesce

    def on_message(self, message: JsonObject) -> None:
        """Run the hooks, take the baseline, report."""
        if message.get("op") != "baseline":
            self.stream.fail("bad_request", f"checkpoint has no op {message.get('op')!r}")
            return
        try:
            self._quiesce()
            self._checkpoint.take_baseline()
            report = self._checkpoint.report()
        except Exception as exc:
            print(f"snapstart: checkpoint: {explain(exc)}", file=sys.stderr, flush=True)
            self.stream.fail("hook_failed", explain(exc))
            return
        self.stream.send(report)
        self.stream.finish()


class ExecuteService(MessageHandler):
    """One execution; the handler is its own sink."""

    def __init__(self, stream: Stream, session: Session, executions: Executions) -> None:
        super().__init__(stream)
        if not session.is_open:
            raise RefusedError("gate_closed", "no session has been injected yet")
        self._executions = executions
        self._is_submitted = False

    def on_message(self, message: JsonObject) -> None:
        """The request first, then control messages."""
        if self._is_submitted:
            if message.get("op") == "interrupt":
                self._executions.interrupt(self)
            return
        try:
            request = parse_request(message)
        except RequestError as exc:
            self.stream.fail("bad_request", str(exc))
            return
        self._is_submitted = True
        self._executions.submit(request, self)

    def on_finish(self) -> None:
        """Without a request there is nothing to wait for."""
        if not self._is_submitted:
            self.stream.fail("bad_request", "the stream was closed before a request came")

    def on_gone(self) -> None:
        """Nobody reads any more."""
        self._executions.abandon(self)

    def on_writable(self) -> None:
        """The host has caught up."""
        if self._executions.current_sink is self:
            self._executions.resume_output()

    def send(self, message: JsonObject) -> None:
        """Sink: one message to the host."""
        self.stream.send(message)

    def queued_bytes(self) -> int:
        """Sink: what the host has not given credit for."""
        return self.stream.queued_bytes()

    def finish(self) -> None:
        """Sink: the execution is over."""
        self.stream.finish()


class SignalService(MessageHandler):
    """Control of the interpreter and of the VM."""

    def __init__(
        self, stream: Stream, executions: Executions, shut_down: Callable[[], None]
    ) -> None:
        super().__init__(stream)
        self._operations = {
            "interrupt": executions.interrupt,
            "restart": executions.restart,
            "shutdown": shut_down,
        }

    def on_message(self, message: JsonObject) -> None:
        """Do it, say so."""
        operation = self._operations.get(str(message.get("op")))
        if operation is None:
            self.stream.fail("bad_request", f"signal has no op {message.get('op')!r}")
            return
        self.stream.send({"type": "done"})
        self.stream.finish()
        operation()
