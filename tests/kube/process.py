"""Run one server as a child that dies with us and whose last words are in every error."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TAIL_LINES = 15
POLL_S = 0.05


class ServerDiedError(Exception):
    """A server ended by itself, or never became ready; the end of its log is in the message."""


class Spawner:
    """Starts children from one thread that lives as long as their owner.

    The kernel sends the parent-death signal when the *thread* that forked ends, so a server started
    from a worker thread would be killed with that thread.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawn")

    def spawn(
        self, argv: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path
    ) -> subprocess.Popen[bytes]:
        """Start `argv` with SIGKILL as its parent-death signal, its output appended to `log`."""
        return self._thread.submit(self._popen, argv, log, env, cwd).result()

    @staticmethod
    def _popen(
        argv: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path
    ) -> subprocess.Popen[bytes]:
        tied = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
        with log.open("ab") as out:
            return subprocess.Popen(
                tied,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    def close(self) -> None:
        """End the thread; call it after the last child is reaped."""
        self._thread.shutdown()


class Server:
    """One server process; owns the child, not its files."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        directory: Path,
        spawner: Spawner,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Name the server; `start` runs it. `directory` takes its log and is its working one; `env`
        may be changed between two starts.
        """
        self.name = name
        self.argv = list(argv)
        self.log = directory / f"{name}.log"
        self.started_in_s: float | None = None
        self._directory = directory
        self._spawner = spawner
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(directory), **(env or {})}
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._child.pid if self._child is not None else None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start the process without waiting for it to be ready; nothing if it runs."""
        with self._lock:
            if not self.is_running:
                self._child = self._spawner.spawn(self.argv, self.log, self.env, self._directory)

    def wait_ready(self, is_ready: Callable[[], bool], *, deadline_s: float) -> None:
        """Poll `is_ready` until it is true.

        Raises: ServerDiedError when the process ends first or `deadline_s` seconds have passed.
        """
        begun = time.monotonic()
        while not is_ready():
            self.check()
            if time.monotonic() - begun > deadline_s:
                raise ServerDiedError(
                    f"{self.name} is not ready after {deadline_s:.0f} s{self.tail()}"
                )
            time.sleep(POLL_S)
        self.started_in_s = time.monotonic() - begun

    def check(self) -> None:
        """Raises: ServerDiedError when it was started and has ended by itself."""
        if self._child is not None and self._child.poll() is not None:
            raise ServerDiedError(f"{self.name} ended with {self._child.returncode}{self.tail()}")

    def kill(self) -> None:
        """SIGKILL and reap, as a crash would; nothing if it does not run."""
        with self._lock:
            child, self._child = self._child, None
            if child is not None:
                child.kill()
                child.wait()

    def stop(self, *, deadline_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after `deadline_s` seconds; reaps it."""
        with self._lock:
            child, self._child = self._child, None
            if child is None:
                return
            child.terminate()
            try:
                child.wait(deadline_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def tail(self) -> str:
        """The end of its log, ready to be put behind a sentence."""
        return tail_of(self.log)


def tail_of(log: Path, *, lines: int = TAIL_LINES) -> str:
    """The last lines of a log below a heading that names it, or the word that it is empty."""
    try:
        with log.open(errors="replace") as stream:
            last = deque(stream, maxlen=lines)
    except FileNotFoundError:
        last = deque()
    if not last:
        return f"; {log} is empty"
    return f"; the end of {log}:\n" + "".join(f"  {line.rstrip()[:400]}\n" for line in last)
