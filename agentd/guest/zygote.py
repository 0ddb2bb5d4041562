"""Hold the preloaded modules in a process that is forked into interpreters."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from typing import NoReturn

from agentd.guest import interpreter, snapshot_restore_py, wire
from agentd.guest.hooks import explain
from agentd.guest.settings import Settings
from agentd.guest.wire import JsonObject

_MESSAGE_MAX_BYTES = 65536
_SPAWN_FDS = 3


class LeftOpenError(Exception):
    """A preloaded module holds a descriptor that interpreters cannot have."""


def run(sock: socket.socket, settings: Settings) -> NoReturn:
    """The life of the zygote, right after the supervisor forked it; owns `sock`."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sock = _keep_only(sock)
        sys.modules["snapshot_restore_py"] = snapshot_restore_py
        failed = _preload(settings.preload)
        gc.collect()
        gc.freeze()
        _send(sock, {"type": "preloaded", "failed": failed})
        _serve(sock, settings)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _keep_only(sock: socket.socket) -> socket.socket:
    number = sock.detach()
    os.closerange(3, number)
    os.closerange(number + 1, max(number + 1, 4096))
    return socket.socket(fileno=number)


def _preload(names: tuple[str, ...]) -> dict[str, str]:
    failed: dict[str, str] = {}
    for name in names:
        try:
            _import(name)
        except Exception as exc:
            failed[name] = explain(exc)
    return failed


def _import(name: str) -> None:
    """Import a module that leaves no descriptor behind. Raises what it raises, or LeftOpenError.

    One that stayed open would be shared by every interpreter: one offset for all, opened as root.
    """
    before = _open_descriptors()
    importlib.import_module(name)
    if not _open_descriptors().keys() <= before.keys():
        gc.collect()
    left = {fd: what for fd, what in _open_descriptors().items() if fd not in before}
    if left:
        listed = ", ".join(f"{fd} ({what})" for fd, what in sorted(left.items()))
        raise LeftOpenError(f"it leaves open the descriptors {listed}; open them on first use")


def _open_descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own is closed by now
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _send(sock: socket.socket, message: JsonObject) -> None:
    sock.sendall(wire.encode_json(message))


def _serve(sock: socket.socket, settings: Settings) -> None:
    while True:
        data, fds, _flags, _address = socket.recv_fds(sock, _MESSAGE_MAX_BYTES, _SPAWN_FDS)
        if not data:
            return
        request = wire.decode_json(data)
        if request["type"] == "spawn":
            _spawn(fds, settings)
        elif request["type"] == "quiesce":
            _send(sock, interpreter.quiesce())
        elif request["type"] == "inspect":
            threads = [thread.name for thread in threading.enumerate()][1:]
            _send(sock, {"type": "inspected", "threads": threads})
        else:
            _send(sock, interpreter.renew(request))


def _spawn(fds: list[int], settings: Settings) -> None:
    """Fork twice, so that the interpreter's parent is the supervisor, which reaps it."""
    try:
        middle = os.fork()
    except OSError:
        middle = -1  # the supervisor sees its control socket closed
    if middle == 0:
        _fork_again(fds, settings)
    for fd in fds:
        os.close(fd)
    if middle > 0:
        os.waitpid(middle, 0)


def _fork_again(fds: list[int], settings: Settings) -> NoReturn:
    status = 1
    try:
        if os.fork() == 0:
            control, stdout_fd, stderr_fd = fds
            interpreter.serve(socket.socket(fileno=control), stdout_fd, stderr_fd, settings)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
