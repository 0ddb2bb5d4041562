"""A stand-in machine whose memory the page server brings."""

from __future__ import annotations

import asyncio
import json
import select
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from agentd.pager.client import PagerClient
from agentd.wire.pager import Listen
from tests.integration.kvm.inside.drive import PATIENCE_S

T = TypeVar("T")
CONTROL = Path("/run/snapstart/pager.sock")
IMAGE, PAGES, PAGE_BYTES = Path("/opt/memory"), 1024, 4096
MONITOR_UID = 1900000001  # as machines have one each


class Machine:
    """A stand-in machine, of a user of its own, whose memory the page server brings."""

    def __init__(self, vm: str, *options: str) -> None:
        self.vm = vm
        self._socket = f"/run/snapstart/{vm}.sock"
        order = Listen(vm, self._socket, "firecracker", str(IMAGE), "5a" * 32, uid=MONITOR_UID)
        ask(PagerClient(CONTROL).listen(order))
        half = PAGES * PAGE_BYTES // 2
        words = ["setpriv", f"--reuid={MONITOR_UID}", f"--regid={MONITOR_UID}", "--clear-groups"]
        words += ["/opt/standin_vm", "--socket", self._socket, "--protocol", "firecracker"]
        words += ["--image", str(IMAGE), "--regions", f"{half},{half}", "--seed", "3", *options]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.say("map")
        self.say("connect")
        self.kept_by = ask(PagerClient(CONTROL).wait(vm, deadline_s=30)).kept_by

    def say(self, command: str) -> dict[str, Any]:
        """Blocks while it waits in a fault."""
        self.begin(command)
        return self.end()

    def begin(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # It says one line at a time, so nothing waits in the buffer.
        if not select.select([self._process.stdout], [], [], PATIENCE_S)[0]:
            raise TimeoutError(f"{self.vm} says nothing for {PATIENCE_S:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.vm} ended with {self._process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def is_there(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def ask(asking: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asking)


def answers(machine: Machine) -> dict[str, Any]:
    """Touches, then compares every byte."""
    return {"random": machine.say("random 300"), "verify": machine.say("verify")}
