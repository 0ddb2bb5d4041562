"""Connect to a guest through its monitor's hybrid vsock.

The monitor listens on a Unix socket for all ports of its guest. Whoever connects writes `CONNECT
<port>` and a newline; once the guest has accepted, it reads `OK <host port>`, then the guest's
bytes. When nobody listens in the guest the monitor hangs up (docs/vsock.md of Firecracker, which
Cloud Hypervisor follows).
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode, PeerError
from agentd.vmm.http_socket import pin, pinned_path

GUEST_PORT: Final = 1024
"""Where the guest runtime listens (agentd/guest/vsock_port.py)."""

_LINE_MAX_BYTES: Final = 32
_OK: Final = re.compile(rb"OK [0-9]{1,10}\n")
_FIRST_PAUSE_S: Final = 0.001
_LAST_PAUSE_S: Final = 0.02
# A request that a guest lost while it was restored is never answered: it is made again, with more
# patience each time, for a guest that is only slow.
_FIRST_PATIENCE_S: Final = 0.25
_LAST_PATIENCE_S: Final = 8.0


class _NotYetError(Exception):
    """Why this attempt came to nothing; another may not."""


def request(port: int) -> bytes:
    """What a new connection begins with; what the guest is to read may follow it at once."""
    return b"CONNECT %d\n" % port


async def connect(path: Path, port: int, *, deadline_s: float) -> socket.socket:
    """Connect to a port of the guest, as often as it takes: one that was restored, or still boots,
    refuses for a while.

    Args: path: the monitor's socket, looked up without following links. deadline_s: from the call.
    Returns: a non-blocking socket owned by the caller; the guest's first byte is still in it.
    Raises: PeerError GUEST_NOT_READY at the deadline, VMM_PROTOCOL when something else answers;
    ConfigError when not permitted. Cancellation: closes the socket.
    """
    what = f"connecting to port {port} of the guest behind {str(path)!r}"
    problem = "it was asked and has not answered"
    try:
        async with asyncio.timeout(deadline_s):
            for patience_s, pause_s in _attempts():
                try:
                    return await _attempt(path, port, patience_s)
                except _NotYetError as exc:
                    problem = str(exc)
                await asyncio.sleep(pause_s)
    except TimeoutError as exc:
        raise PeerError(
            ErrorCode.GUEST_NOT_READY,
            f"{what}: no connection in {deadline_s:g} s (last problem: {problem})",
            hint="look at the guest's console",
        ) from exc
    except PermissionError as exc:
        raise ConfigError(ErrorCode.PERMISSION_DENIED, f"{what}: {exc.strerror}") from exc
    except OSError as exc:
        raise PeerError(ErrorCode.VMM_FAILED, f"{what}: {exc.strerror}") from exc
    except PeerError as exc:
        raise PeerError(exc.code, f"{what}: {exc.message}") from exc
    raise AssertionError("attempts ended")


def _attempts() -> Iterator[tuple[float, float]]:
    """How long to wait for an answer, how long to pause after it; for ever."""
    patience_s, pause_s = _FIRST_PATIENCE_S, _FIRST_PAUSE_S
    while True:
        yield patience_s, pause_s
        patience_s = min(2 * patience_s, _LAST_PATIENCE_S)
        pause_s = min(1.5 * pause_s, _LAST_PAUSE_S)


async def _attempt(path: Path, port: int, patience_s: float) -> socket.socket:
    sock = _open(path)
    try:
        async with asyncio.timeout(patience_s):
            await asyncio.get_running_loop().sock_sendall(sock, request(port))
            await _read_answer(sock)
    except BaseException as exc:
        sock.close()
        if isinstance(exc, TimeoutError):
            raise _NotYetError(f"no answer in {patience_s:g} s") from exc
        if isinstance(exc, ConnectionError):
            raise _NotYetError(exc.strerror or str(exc)) from exc
        raise
    return sock


def _open(path: Path) -> socket.socket:
    """Connected, without waiting: with a full backlog the attempt is over."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        fd = pin(path)
        try:
            sock.connect(pinned_path(fd))
        finally:
            os.close(fd)
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as exc:
        sock.close()
        raise _NotYetError(exc.strerror or str(exc)) from exc
    except BaseException:
        sock.close()
        raise
    return sock


async def _read_answer(sock: socket.socket) -> None:
    """Read the answer, and not a byte of what the guest says after it."""
    loop = asyncio.get_running_loop()
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_MAX_BYTES:
        byte = await loop.sock_recv(sock, 1)
        if not byte:
            raise _NotYetError("the monitor hung up: nobody listens in the guest")
        line += byte
    if not _OK.fullmatch(line):
        raise PeerError(ErrorCode.VMM_PROTOCOL, f"{line!r} came where 'OK <port>' is due")
