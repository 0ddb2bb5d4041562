"""The stores that the contract is tried on, each with a way past its client."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import redis

from controlplane.store.clients import RedisLimits
from controlplane.store.endpoint import Credentials, parse_endpoint
from controlplane.store.redis import RedisStore
from controlplane.store.sqlite import SqliteStore
from controlplane.store.store import ArtifactStore
from tests.fakes.store import FakeStore, MemoryStore
from tests.kube.redisd import RedisServer

# A disk may take its time over a commit, a machine over anything.
CALL_S = 50.0
LIMITS = RedisLimits(connect_s=20.0, call_s=10.0, connections=4)


class Backend(Protocol):
    """One place where manifests are kept."""

    def open(self) -> ArtifactStore:
        """Another client of it; the test closes it."""

    def write_raw(self, key: str, raw: bytes) -> None:
        """As another program would."""

    def read_raw(self, key: str) -> bytes | None:
        """The bytes that are stored."""


class MemoryBackend:
    """The fake that everything else is tested with."""

    def __init__(self) -> None:
        self._memory = MemoryStore()

    def open(self) -> ArtifactStore:
        return FakeStore(self._memory)

    def write_raw(self, key: str, raw: bytes) -> None:
        self._memory.texts[key] = raw

    def read_raw(self, key: str) -> bytes | None:
        return self._memory.texts.get(key)


class SqliteBackend:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> ArtifactStore:
        return SqliteStore(self.path, call_s=CALL_S)

    def write_raw(self, key: str, raw: bytes) -> None:
        self._run(
            "INSERT INTO manifests VALUES (?, ?) ON CONFLICT DO UPDATE SET text = ?2", key, raw
        )

    def read_raw(self, key: str) -> bytes | None:
        rows = self._run("SELECT text FROM manifests WHERE key = ?", key)
        return rows[0][0] if rows else None

    def _run(self, sql: str, *args: object) -> list[tuple[bytes]]:
        connection = sqlite3.connect(self.path)
        connection.execute("PRAGMA synchronous = OFF")  # What a test puts there need not last.
        try:
            with connection:
                return connection.execute(sql, args).fetchall()
        finally:
            connection.close()


class ServerBackend:
    """A real Redis or Valkey."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def open(self) -> ArtifactStore:
        return RedisStore(parse_endpoint(f"unix://{self.server.socket}", Credentials()), LIMITS)

    def write_raw(self, key: str, raw: bytes) -> None:
        self.ask(lambda client: client.set(key, raw))

    def read_raw(self, key: str) -> bytes | None:
        found = self.ask(lambda client: client.get(key))
        assert found is None or isinstance(found, bytes)
        return found

    def ask(self, question: Callable[[redis.Redis], object]) -> object:
        """Ask the server by a connection of our own."""
        with redis.Redis(unix_socket_path=str(self.server.socket)) as client:
            return question(client)
