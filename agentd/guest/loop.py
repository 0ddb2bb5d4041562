"""Wait for descriptors, timers, children of a single-threaded process.

A bare epoll: each layer of Python between a resumed VM's first interrupt and the answer costs
milliseconds under emulation. A descriptor is borrowed; its owner removes it before closing it.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP
EDGE = select.EPOLLET

Handler = Callable[[int], None]


class Timer:
    """A pending call; `cancel` makes it never happen."""

    __slots__ = ("callback", "is_cancelled")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        """Drop the call."""
        self.is_cancelled = True


class Loop:
    """Owner of the epoll descriptor and of the SIGCHLD wake-up pair."""

    def __init__(self) -> None:
        self.on_batch_end: Callable[[], None] = lambda: None
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[int, int, Timer]] = []
        self._sequence = itertools.count()
        self._children: dict[int, Callable[[int], None]] = {}
        self._is_stopped = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)

    def close(self) -> None:
        """Release what the loop owns; handlers' descriptors stay with their owners."""
        self._epoll.close()
        self._wake_read.close()
        self._wake_write.close()

    # -- descriptors ----------------------------------------------------------------------

    def add(self, fd: int, handler: Handler, events: int = READ) -> None:
        """Call `handler(events)` when `fd` is ready."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        """Change what `fd` is watched for."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Stop watching `fd`; harmless when it is not watched."""
        if self._handlers.pop(fd, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(fd)

    # -- time -----------------------------------------------------------------------------

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call once after `delay_s` seconds of monotonic time."""
        timer = Timer(callback)
        due_ns = time.monotonic_ns() + int(delay_s * 1e9)
        heapq.heappush(self._timers, (due_ns, next(self._sequence), timer))
        return timer

    def _run_timers(self) -> None:
        now_ns = time.monotonic_ns()
        while self._timers and (self._timers[0][0] <= now_ns or self._timers[0][2].is_cancelled):
            timer = heapq.heappop(self._timers)[2]
            if not timer.is_cancelled:
                timer.callback()

    def _timeout_s(self) -> float:
        while self._timers and self._timers[0][2].is_cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            return -1
        return max(0.0, (self._timers[0][0] - time.monotonic_ns()) / 1e9)

    # -- children -------------------------------------------------------------------------

    def watch_children(self) -> None:
        """Reap every child of the process from now on; only the main thread may call this."""
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        self.add(self._wake_read.fileno(), self._on_wake)

    def on_exit(self, pid: int, callback: Callable[[int], None]) -> None:
        """Call `callback(wait_status)` when the child or adopted orphan `pid` has ended."""
        self._children[pid] = callback

    def _on_wake(self, _events: int) -> None:
        with suppress(BlockingIOError):
            self._wake_read.recv(4096)
        self.reap()

    def reap(self) -> None:
        """Collect every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            callback = self._children.pop(pid, None)
            if callback is not None:
                callback(status)

    # -- running --------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`, which may have come before."""
        while not self._is_stopped:
            self.step()

    def step(self, timeout_s: float | None = None) -> None:
        """Wait once, at most `timeout_s` seconds when given, and serve what is ready."""
        wait_s = self._timeout_s()
        if timeout_s is not None:
            wait_s = timeout_s if wait_s < 0 else min(wait_s, timeout_s)
        for fd, events in self._epoll.poll(wait_s):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        if self._timers:
            self._run_timers()
        self.on_batch_end()

    def stop(self) -> None:
        """Make `run` return after the present batch."""
        self._is_stopped = True
