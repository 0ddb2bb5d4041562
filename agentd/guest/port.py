"""Move bytes between the virtio-serial port and the multiplexer.

While no host is connected the driver reports EPOLLHUP all the time (Linux
drivers/char/virtio_console.c, port_fops_poll), so the port is watched edge-triggered: each wake-up
of its wait queue (data, room, a host coming or going) is reported once.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from agentd.guest.loop import EDGE, READ, WRITE, Loop
from agentd.guest.streams import Hub

PORT_NAME = "org.snapstart.channel.0"
_READ_BYTES = 65536
_WRITE_BYTES = 32768


def find_port(name: str = PORT_NAME, *, sys_root: str = "/sys", dev_root: str = "/dev") -> str:
    """The device of the port called `name`. Raises FileNotFoundError."""
    for file in Path(sys_root, "class/virtio-ports").glob("*/name"):
        if file.read_text("utf-8").strip() == name:
            return str(Path(dev_root, file.parent.name))
    raise FileNotFoundError(f"no virtio port is called {name!r}")


def wait_for_port(timeout_s: float) -> str:
    """`find_port`, tried until the host's name for it has arrived. Raises FileNotFoundError."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return find_port()
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def open_port(timeout_s: float) -> int:
    """The descriptor of our port, non-blocking. Raises OSError."""
    return os.open(wait_for_port(timeout_s), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


class Port:
    """The open port.

    Args: fd: non-blocking; owned.
    """

    def __init__(self, loop: Loop, fd: int, hub: Hub) -> None:
        self._loop = loop
        self._hub = hub
        self._fd = fd
        loop.add(self._fd, self._ready, READ | WRITE | EDGE)
        self._ready(0)

    def close(self) -> None:
        """Close the descriptor."""
        self._loop.remove(self._fd)
        os.close(self._fd)

    def _ready(self, _events: int) -> None:
        # Zero bytes mean that no host is connected; nothing is read then until the next edge.
        with suppress(BlockingIOError):
            while data := os.read(self._fd, _READ_BYTES):
                self._hub.receive(data)
        self.flush()

    def flush(self) -> None:
        """Write what the multiplexer has; without a host, or room, it stays (bounded by credit)."""
        output = self._hub.mux.output
        if not output:
            return
        self._hub.mux.leaving()
        with suppress(BlockingIOError):
            while output:
                written = os.write(self._fd, bytes(output[:_WRITE_BYTES]))
                del output[:written]
