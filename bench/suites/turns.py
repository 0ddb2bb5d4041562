"""Measure in turn with another run of the suites: while one measures, the other sleeps.

The link is a stream socket. Before each test, and before the end, a run sends one byte, and waits
for one: so its turn lasts until it asks for the next, or is gone.
"""

from __future__ import annotations

import os
import socket

import pytest

TURN = b"."


class TurnsPlugin:
    """Part of pytest while two builds are compared. fd: of the link; owned from here on."""

    def __init__(self, fd: int) -> None:
        # A machine that outlives us must not make it seem that we are there.
        os.set_inheritable(fd, False)
        self._link = socket.socket(fileno=fd)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """A test begins."""
        if not self._wait():
            pytest.exit("who compares is gone", returncode=pytest.ExitCode.INTERRUPTED)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Samples are to be written, which takes a processor too."""
        self._wait()

    def pytest_unconfigure(self) -> None:
        """The last turn is over."""
        self._link.close()

    def _wait(self) -> bool:
        try:
            self._link.sendall(TURN)
            return self._link.recv(1) == TURN
        except OSError:
            return False
