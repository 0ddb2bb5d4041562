"""Move bytes between a vsock listener and the multiplexer.

The channel on monitors that have no virtio-serial. A host connects anew for each of its lives, and
after a restore, which resets every connection; the listener outlasts all of them. The last host to
connect is the host: whoever was connected before has died, or is about to be told so.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from agentd.guest.loop import READ, WRITE, Loop
from agentd.guest.streams import Hub

PORT = 1024
_VSOCK_DEVICE = "0x0013"  # include/uapi/linux/virtio_ids.h
_BACKLOG = 16
_READ_BYTES = 65536


def has_vsock(*, sys_root: str = "/sys") -> bool:
    """Whether the monitor gave this machine a virtio vsock device."""
    for file in Path(sys_root, "bus/virtio/devices").glob("*/device"):
        if file.read_text("ascii").strip() == _VSOCK_DEVICE:
            return True
    return False


def listen(port: int = PORT) -> socket.socket:
    """A listener for the host, non-blocking. Raises OSError."""
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.bind((socket.VMADDR_CID_ANY, port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class VsockPort:
    """The channel over its present connection.

    Args: listener: non-blocking; owned.
    """

    def __init__(self, loop: Loop, listener: socket.socket, hub: Hub) -> None:
        self._loop = loop
        self._hub = hub
        self._listener = listener
        self._host: socket.socket | None = None
        self._is_writing = False
        loop.add(listener.fileno(), self._accept)

    def close(self) -> None:
        """Close the listener, and the connection if there is one."""
        self._hang_up()
        self._loop.remove(self._listener.fileno())
        self._listener.close()

    def _accept(self, _events: int) -> None:
        with suppress(OSError):  # whoever was about to connect has left
            host, address = self._listener.accept()
            if address and address[0] != socket.VMADDR_CID_HOST:
                host.close()
                return
            self._hang_up()
            host.setblocking(False)
            self._host = host
            self._loop.add(host.fileno(), self._ready)

    def _hang_up(self) -> None:
        host, self._host = self._host, None
        self._is_writing = False
        if host is not None:
            self._loop.remove(host.fileno())
            host.close()

    def _ready(self, _events: int) -> None:
        assert self._host is not None
        try:
            data = self._host.recv(_READ_BYTES)
        except BlockingIOError:
            data = None
        except OSError:  # reset, as by a restore
            data = b""
        if data == b"":
            self._hang_up()
        elif data is not None:
            self._hub.receive(data)
        self.flush()

    def flush(self) -> None:
        """Write what the multiplexer has; without a host, or room, it stays (bounded by credit)."""
        output = self._hub.mux.output
        if self._host is None or not (output or self._is_writing):
            return
        if output:
            self._hub.mux.leaving()
        try:
            while output:
                sent = self._host.send(output)
                del output[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
            return
        self._watch_room(bool(output))

    def _watch_room(self, is_writing: bool) -> None:
        if is_writing != self._is_writing and self._host is not None:
            self._is_writing = is_writing
            self._loop.modify(self._host.fileno(), READ | WRITE if is_writing else READ)
