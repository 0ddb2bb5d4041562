"""Own the zygote, own one interpreter process: the supervisor's side of both."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agentd.guest import wire, zygote
from agentd.guest.link import Link, LinkError
from agentd.guest.loop import READ, Loop
from agentd.guest.observe import descendants_of
from agentd.guest.settings import Settings
from agentd.guest.wire import JsonObject

SPAWN_DEADLINE_S = 30.0
PRELOAD_DEADLINE_S = 600.0
_MESSAGE_MAX_BYTES = 65536
_PIPE_READ_BYTES = 1024 * 1024
_STOP_ROUNDS = 100


class Zygote:
    """A process with the preloaded modules; asked synchronously, it never runs user code."""

    def __init__(self, settings: Settings) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            zygote.run(theirs, settings)
        theirs.close()
        self._sock = ours
        self.failed_preloads: dict[str, str] = {}

    def wait_until_preloaded(self) -> None:
        """Raises LinkError when the zygote died over its imports."""
        self.failed_preloads = dict(self._receive(PRELOAD_DEADLINE_S)["failed"])

    def spawn(self, fds: list[int]) -> None:
        """Start an interpreter on control socket, stdout, stderr; the descriptors stay ours."""
        try:
            socket.send_fds(self._sock, [wire.encode_json({"type": "spawn"})], fds)
        except OSError as exc:
            raise LinkError(f"asking the zygote for an interpreter failed: {exc}") from exc

    def ask(self, request: JsonObject, deadline_s: float) -> JsonObject:
        """Raises LinkError when the zygote is gone or silent."""
        self.send(request)
        return self._receive(deadline_s)

    def send(self, request: JsonObject) -> None:
        """The first half of `ask`."""
        try:
            self._sock.sendall(wire.encode_json(request))
        except OSError as exc:
            raise LinkError(f"writing to the zygote failed: {exc}") from exc

    def receive(self, deadline_s: float) -> JsonObject:
        """The second half of `ask`."""
        return self._receive(deadline_s)

    def _receive(self, deadline_s: float) -> JsonObject:
        self._sock.settimeout(deadline_s)
        try:
            data = self._sock.recv(_MESSAGE_MAX_BYTES)
        except OSError as exc:
            raise LinkError(f"reading from the zygote failed: {exc}") from exc
        if not data:
            raise LinkError("the zygote is gone")
        return wire.decode_json(data)

    def close(self) -> None:
        """Let the zygote end: it sees its socket closed."""
        self._sock.close()


class InterpreterProcess:
    """One interpreter: its control link, its output pipes, its end.

    Args: on_message: control messages. on_output: (name, bytes) of `stdout`, `stderr`.
    on_exit: called once with the wait status, after the last output has been delivered.
    """

    def __init__(
        self,
        loop: Loop,
        spawner: Zygote,
        *,
        on_message: Callable[[JsonObject], None],
        on_output: Callable[[str, bytes], None],
        on_exit: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._on_output = on_output
        self._on_exit = on_exit
        self._is_paused = False
        control, theirs = socket.socketpair()
        stdout, stdout_theirs = os.pipe2(os.O_CLOEXEC)
        stderr, stderr_theirs = os.pipe2(os.O_CLOEXEC)
        self._pipes = {stdout: "stdout", stderr: "stderr"}
        self.link = Link(loop, control, on_message, self._on_link_end)
        for fd in self._pipes:
            os.set_blocking(fd, False)
            loop.add(fd, lambda _events, fd=fd: self._read(fd))  # type: ignore[misc]
        self.end_reason = ""
        try:
            spawner.spawn([theirs.fileno(), stdout_theirs, stderr_theirs])
        except LinkError:
            self._release()
            raise
        finally:
            theirs.close()
            os.close(stdout_theirs)
            os.close(stderr_theirs)
        self.pid = self._learn_pid()

    def _learn_pid(self) -> int:
        try:
            pid = int(self.link.wait(("ready",), SPAWN_DEADLINE_S)["pid"])
        except LinkError:
            self._release()
            raise
        self._loop.on_exit(pid, self._exited)
        return pid

    def pause_output(self) -> None:
        """Let the pipes fill: whoever takes the output is behind."""
        if not self._is_paused:
            self._is_paused = True
            for fd in self._pipes:
                self._loop.modify(fd, 0)

    def resume_output(self) -> None:
        """Read the pipes again."""
        if self._is_paused:
            self._is_paused = False
            for fd in self._pipes:
                self._loop.modify(fd, READ)

    def drain(self) -> None:
        """Deliver what is in the pipes now; bounded by their capacity."""
        for fd in list(self._pipes):
            self._read(fd)

    def interrupt(self) -> None:
        """SIGINT to the interpreter's process group, as a terminal would."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGINT)

    def kill(self, reason: str) -> None:
        """SIGKILL; `on_exit` follows when it has been reaped."""
        self.end_reason = self.end_reason or reason
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Nobody waits for the end of this process any more."""
        self._on_exit = lambda _status: None

    def _on_link_end(self, reason: str) -> None:
        self.link.close()
        self.kill(f"control channel: {reason}")

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, _PIPE_READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._on_output(self._pipes[fd], data)
            return
        self._loop.remove(fd)
        os.close(fd)
        del self._pipes[fd]

    def _exited(self, wait_status: int) -> None:
        self.drain()
        self._release()
        self._on_exit(wait_status)

    def _release(self) -> None:
        self.link.close()
        for fd in self._pipes:
            self._loop.remove(fd)
            os.close(fd)
        self._pipes.clear()


class SessionProcesses:
    """Everything that the interpreter's code has started: found by cgroup, else by descent.

    Args: known: the processes of ours; they and what they have started are spared.
    """

    def __init__(self, settings: Settings, known: Callable[[], set[int]]) -> None:
        self._cgroup = settings.cgroup
        self._proc = settings.proc
        self._known = known

    def kill_all(self) -> None:
        """SIGKILL to all of them."""
        if self._cgroup:
            with suppress(OSError):
                Path(self._cgroup, "cgroup.kill").write_text("1", encoding="ascii")
                return
        stopped: set[int] = set()
        for _ in range(_STOP_ROUNDS):
            # Stopped processes cannot fork, so this ends even against a fork bomb.
            new = descendants_of(self._proc, os.getpid(), self._known()) - stopped
            if not new:
                break
            stopped |= new
            _signal_all(new, signal.SIGSTOP)
        _signal_all(stopped, signal.SIGKILL)


def _signal_all(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
