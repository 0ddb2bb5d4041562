"""Run code in sessions without a pause, each step counted by the guest itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from agentd.client import Sandbox
from agentd.errors import SnapStartError

CALL_S = 120.0


class Worker(threading.Thread):
    """One session's client. A call that is lost, or done twice, is seen in the guest's count.

    calls: that were answered. failures: what went wrong, at most one: it ends there.
    """

    def __init__(self, sandbox: Sandbox, is_over: threading.Event) -> None:
        super().__init__(name=f"client-{sandbox.sandbox_id}", daemon=True)
        self._sandbox = sandbox
        self._is_over = is_over
        self.calls = 0
        self.failures: list[str] = []

    def run(self) -> None:
        """Until it is over, or something failed."""
        try:
            self._sandbox.run_code("done = 0", timeout=CALL_S)
            while not self._is_over.is_set() and not self.failures:
                self._step()
        except SnapStartError as exc:
            self.failures.append(f"{self._sandbox.sandbox_id}, call {self.calls}: {exc}")

    def _step(self) -> None:
        said = self._sandbox.run_code("done += 1\ndone", timeout=CALL_S)
        self.calls += 1
        if said.text != str(self.calls):
            what = f"call {self.calls} of {self._sandbox.sandbox_id} was answered by {said.text!r}"
            self.failures.append(f"{what} {said.error}")


class Load:
    """All of them. Use in `with`: it ends when the block does."""

    def __init__(self, sandboxes: Sequence[Sandbox]) -> None:
        self._is_over = threading.Event()
        self.workers = [Worker(one, self._is_over) for one in sandboxes]

    @property
    def calls(self) -> int:
        """That were answered so far."""
        return sum(worker.calls for worker in self.workers)

    @property
    def failures(self) -> list[str]:
        """Of everybody."""
        return [one for worker in self.workers for one in worker.failures]

    def wait_for_calls(self, each: int) -> None:
        """Until every client that has not failed was answered so often again."""
        wanted = [(worker, worker.calls + each) for worker in self.workers]
        for worker, calls in wanted:
            while worker.calls < calls and worker.is_alive():
                worker.join(0.02)

    def __enter__(self) -> Load:
        for worker in self.workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for worker in self.workers:
            worker.join()
