"""Open what the daemon answers on, and close it in order."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web

from agentd.engine.home import make_private_dir
from agentd.errors import ConfigError, ErrorCode
from agentd.http.leaving import Leaving
from agentd.settings import Settings

_BACKLOG: Final = 1024


@asynccontextmanager
async def listening(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    """Serve the application on its Unix socket; on the way out finish requests, then abort them."""
    leaving = Leaving(app)
    runner = web.AppRunner(
        app,
        # A client that goes away takes its request with it: no session without an owner.
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=settings.stop.requests_s,
    )
    with _bound_socket(settings.socket, settings.socket_mode) as sock:
        await runner.setup()
        try:
            await web.SockSite(runner, sock, backlog=_BACKLOG).start()
            yield
        finally:
            if runner.server is not None:
                leaving.begin(runner.server.connections)
            await runner.cleanup()


@asynccontextmanager
async def showing(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    """Serve health and metrics by TCP. Raises: ConfigError."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        http = settings.http
        try:
            await web.TCPSite(runner, http.host or None, http.port).start()
        except OSError as exc:
            raise ConfigError(
                ErrorCode.CONFIG_INVALID,
                f"listening on http.host {http.host!r}, http.port {http.port}: {exc.strerror}",
                hint="choose another http.port, or stop what uses it",
            ) from exc
        # Event loops pass over address families that the kernel refuses.
        if not runner.addresses:
            raise ConfigError(
                ErrorCode.CONFIG_INVALID,
                f"listening on http.host {http.host!r}, http.port {http.port}: no address could be "
                "opened, this process may have no network sockets",
                hint="under systemd install the drop-in agentd-http.conf, or set http.port to 0",
            )
        yield
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def _bound_socket(path: Path, mode: int) -> Iterator[socket.socket]:
    """A socket bound to a path, whose file is removed with it.

    A file that a dead daemon left is removed; one that somebody listens on is not.
    Raises: ConfigError.
    """
    make_private_dir(path.parent, "the directory of api.socket", 0o755)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with contextlib.closing(sock):
        try:
            sock.bind(str(path))
            # Nobody can connect before listen(2), so nobody slips in by a wider mode.
            path.chmod(mode)
            inode = path.stat().st_ino
        except OSError as exc:
            raise _cannot_listen(path, str(exc)) from exc
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()


def _remove_stale(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_socket():
        raise _cannot_listen(path, "there is a file of that name that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as exc:
            raise _cannot_listen(path, str(exc)) from exc
    raise _cannot_listen(path, "somebody listens on it")


def _cannot_listen(path: Path, why: str) -> ConfigError:
    return ConfigError(
        ErrorCode.CONFIG_INVALID,
        f"listening on {str(path)!r}: {why}",
        hint="stop what uses it, or choose another api.socket",
    )
