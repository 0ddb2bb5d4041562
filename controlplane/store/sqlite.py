"""Keep manifests in a file of one machine.

One connection, used by one thread, opened on first use. Other processes may use the file as well:
each statement is a transaction of its own, and compares and writes in one step.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from controlplane.api.manifest import Manifest
from controlplane.errors import ConflictError, CorruptError, UnavailableError
from controlplane.store import codec
from controlplane.store.store import OwnerKey, Stored

_Rows = list[tuple[Any, ...]]
_APPLICATION: Final = 0x534E4150  # "SNAP": whose file this is
_SCHEMA: Final = 1
_PAGE: Final = 500
_BUSY_S: Final = 1.0
_AGAIN_S: Final = 0.005
_CREATE: Final = "CREATE TABLE manifests (key TEXT PRIMARY KEY, text BLOB NOT NULL) STRICT"


class SqliteStore:
    """An ArtifactStore in a file, readable by its owner alone.

    path: made if absent, its directory is not. call_s: for a whole call. A call that takes longer
    goes on in its thread: the write may happen yet.
    """

    def __init__(self, path: Path, *, call_s: float = 5.0) -> None:
        self._path = path
        self._call_s = call_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="manifests")
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    async def get(self, key: OwnerKey) -> Stored | None:
        """See ArtifactStore."""
        rows = await self._run(
            f"reading {key}", "SELECT text FROM manifests WHERE key = ?", str(key)
        )
        return codec.decode(key, rows[0][0]) if rows else None

    async def put(self, key: OwnerKey, manifest: Manifest, version: str | None) -> str:
        """See ArtifactStore."""
        text = codec.encode(key, manifest, version)
        what, raw = f"writing {key}", text.encode()
        if version is None:
            sql = "INSERT INTO manifests VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING 1"
            rows = await self._run(what, sql, str(key), raw)
        else:
            sql = "UPDATE manifests SET text = ? WHERE key = ? AND text = ? RETURNING 1"
            rows = await self._run(what, sql, raw, str(key), version.encode())
        if not rows:
            raise ConflictError(f"{what} in {self._path}: another wrote it first")
        return text

    async def delete(self, key: OwnerKey, version: str | None = None) -> None:
        """See ArtifactStore."""
        what = f"deleting {key}"
        if version is None:
            await self._run(what, "DELETE FROM manifests WHERE key = ?", str(key))
            return
        sql = "DELETE FROM manifests WHERE key = ? AND text = ? RETURNING 1"
        if await self._run(what, sql, str(key), version.encode()):
            return
        if await self._run(what, "SELECT 1 FROM manifests WHERE key = ?", str(key)):
            raise ConflictError(f"{what} in {self._path}: another wrote it first")

    async def list(self) -> AsyncIterator[OwnerKey]:
        """See ArtifactStore."""
        last = ""
        sql = f"SELECT key FROM manifests WHERE key > ? ORDER BY key LIMIT {_PAGE}"
        while rows := await self._run("listing manifests", sql, last):
            for (text,) in rows:
                key = OwnerKey.parse(text)
                if key is not None:
                    yield key
            last = rows[-1][0]

    async def close(self) -> None:
        """See ArtifactStore. Waits for the call under way."""
        self._is_closed = True
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(None, self._stop))

    def _stop(self) -> None:
        """In another thread: the end of the store's own."""
        self._thread.shutdown(wait=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _run(self, what: str, sql: str, *args: object) -> _Rows:
        """One statement in the thread, in the time for a call; every foreign error ends here."""
        if self._is_closed:
            raise UnavailableError(f"{what}: the store is closed")
        place, loop = f"{what} in {self._path}", asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._call_s):
                return await loop.run_in_executor(self._thread, self._execute, sql, args)
        except sqlite3.OperationalError as exc:
            raise UnavailableError(f"{place}: {exc}", hint="look at the file and its disk") from exc
        except sqlite3.Error as exc:
            raise CorruptError(f"{place}: {exc}", hint="the file is damaged or not ours") from exc
        except (OSError, TimeoutError) as exc:
            raise UnavailableError(f"{place}: {str(exc) or 'no answer in time'}") from exc

    def _execute(self, sql: str, args: tuple[object, ...]) -> _Rows:
        """In the thread."""
        if self._connection is None:
            self._connection = _open(self._path)
        return self._connection.execute(sql, args).fetchall()


def _open(path: Path) -> sqlite3.Connection:
    """Open or make the file; its journal gets its mode from it.

    Made by name: to close a descriptor of the file would give up the locks that this process holds
    on it by another connection (fcntl(2), "Advisory record locking").
    """
    with suppress(FileExistsError):
        os.mknod(path, stat.S_IFREG | 0o600)
    if path.is_file():
        path.chmod(0o600)
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Every commit is on the disk before it is acknowledged."""
    _use_a_write_ahead_log(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        _make_schema(connection)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _use_a_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Two that turn a new file over at once are refused without a wait, whatever the time-out."""
    end = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(_AGAIN_S)


def _make_schema(connection: sqlite3.Connection) -> None:
    ((application,),) = connection.execute("PRAGMA application_id")
    ((schema,),) = connection.execute("PRAGMA user_version")
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
    if (application, schema) == (_APPLICATION, _SCHEMA):
        return
    if tables or application:
        raise CorruptError(
            f"the file is of application {application:#x}, schema {schema}; want "
            f"{_APPLICATION:#x}, schema {_SCHEMA}",
            hint="give the path of a file of this program's own, or run the version that wrote it",
        )
    connection.execute(_CREATE)
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {_SCHEMA}")
