"""Walk the path from PREPARE to the first result before the checkpoint, without effect.

The first pass through Python code is the slow one: imports, specialisation of byte code, pages
touched. After a restore that would be paid by every session; here it is paid once.
"""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING

from agentd.guest import wire
from agentd.guest.effects import PROCESS_STEPS
from agentd.guest.execute_request import Request
from agentd.guest.prepare import Plan
from agentd.guest.streams import Hub, MessageHandler, Stream
from agentd.guest.warmfork import Action, Apply, WarmFork
from agentd.guest.wire import JsonObject

if TYPE_CHECKING:
    from agentd.guest.supervisor import Supervisor

ROUNDS = 3
DEADLINE_S = 60.0
_CODE = ("print(1)\n2", "1/0", "x = [i for i in range(3)]\nx")
_NUMPY = "import numpy\nnumpy.random.random(3); numpy.arange(6).reshape(2, 3).sum()"


def run(supervisor: Supervisor) -> None:
    """Exercise codec, conversation, execution a few times; leaves no trace."""
    codes = (*_CODE, _NUMPY) if "numpy" in supervisor.settings.preload else _CODE
    for _ in range(ROUNDS):
        _rehearse_inject(supervisor.settings.workspace)
        supervisor.rehearse_processes(PROCESS_STEPS[2:3])
        for code in codes:
            _rehearse_execution(supervisor, code)


def _rehearse_inject(workspace: str) -> None:
    context = {
        "session_id": "rehearsal",
        "workspace": workspace,
        "hostname": "rehearsal",
        "machine_id": "0" * 32,
        "entropy": base64.b64encode(bytes(32)).decode("ascii"),
        "files": {"a": ""},
        "metadata": {"a": "b"},
    }
    fork = WarmFork(workspace_root=workspace)
    hub = Hub({"rehearsal": lambda stream, _params: _Echo(stream)})
    now_ns = time.monotonic_ns()
    conversation, _ = fork.connect(now_ns)
    prepare = {
        "type": "PREPARE",
        "task_id": "t",
        "env_overrides": {"A": "b"},
        "context": json.dumps(context),
    }
    commit = {"type": "COMMIT", "wall_clock_ns": time.time_ns(), "held_ns": 0}
    actions: list[Action] = []
    hub.receive(wire.MARKER + wire.encode_frame(wire.HELLO, 0, bytes(wire.EPOCH_BYTES)))
    hub.receive(wire.encode_frame(wire.OPEN, 1, wire.encode_json({"service": "rehearsal"})))
    for message in (prepare, commit):
        encoded = wire.encode_message(message)
        hub.receive(wire.encode_frame(wire.DATA, 1, encoded))
        actions += conversation.receive(encoded, now_ns)
    hub.receive(wire.encode_frame(wire.CLOSE, 1))
    if not isinstance(actions[-1], Apply) or not isinstance(actions[-1].plan, Plan):
        raise RuntimeError(f"the rehearsal of the inject protocol ended with {actions[-1]!r}")
    conversation.applied()


class _Echo(MessageHandler):
    def on_message(self, message: JsonObject) -> None:
        self.stream.send(message)

    def on_finish(self) -> None:
        self.stream.finish()


class _Collector:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.is_done = False

    def send(self, message: JsonObject) -> None:
        self._stream.send(message)

    def queued_bytes(self) -> int:
        return self._stream.queued_bytes()

    def finish(self) -> None:
        self._stream.finish()
        self.is_done = True


def _rehearse_execution(supervisor: Supervisor, code: str) -> None:
    sink = _Collector(Stream(Hub({}).mux, 1))
    supervisor.executions.submit(Request(code=code, timeout_s=DEADLINE_S, is_rehearsal=True), sink)
    deadline = time.monotonic() + DEADLINE_S
    while not sink.is_done:
        supervisor.loop.step(1.0)
        if time.monotonic() > deadline:
            raise RuntimeError("the rehearsal of an execution did not end")
