"""The file: whose it is, what it survives."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from controlplane.errors import ConflictError, CorruptError, UnavailableError
from controlplane.store.sqlite import SqliteStore
from tests.adapters.controlplane.store.backends import CALL_S
from tests.adapters.controlplane.store.samples import KEY, manifest

WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from controlplane.store.sqlite import SqliteStore
from tests.adapters.controlplane.store.backends import CALL_S
from tests.adapters.controlplane.store.samples import KEY, manifest

async def main():
    store, version = SqliteStore(Path(sys.argv[1])), None
    for seq in itertools.count(1):
        version = await store.put(KEY, manifest(seq), version)
        print(seq, flush=True)

asyncio.run(main())
"""

LOCKER = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("held", end="")
"""


async def test_the_file_and_its_journal_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    path.touch(mode=0o644)
    store = SqliteStore(path)
    await store.put(KEY, manifest(), None)
    with os.scandir(tmp_path) as files:
        modes = [stat.S_IMODE(file.stat().st_mode) for file in files]
    assert modes == [0o600] * 3
    await store.close()
    assert os.listdir(tmp_path) == ["m.db"]


async def test_its_settings_are_those_of_a_durable_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "m.db")
    assert await store.get(KEY) is None
    connection = store._connection
    assert connection is not None
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    await store.close()


async def test_closing_ends_its_thread(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "m.db")
    await store.get(KEY)
    await store.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("manifests")]


def test_every_acknowledged_write_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    last = max(int(writer.stdout.readline()) for _ in range(20))
    writer.kill()
    last = max([last, *(int(line) for line in writer.stdout.read().split())])
    writer.wait()
    writer.stdout.close()

    async def read() -> int:
        store = SqliteStore(path)
        stored = await store.get(KEY)
        await store.close()
        assert stored is not None
        return stored.manifest.rebuild_seq

    assert asyncio.run(read()) in (last, last + 1)


async def test_a_file_locked_by_another_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    store = SqliteStore(path, call_s=CALL_S)
    version = await store.put(KEY, manifest(), None)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UnavailableError, match="locked"):
        await store.put(KEY, manifest(2), version)
    other.execute("ROLLBACK")
    other.close()
    await store.put(KEY, manifest(2), version)
    await store.close()


async def test_a_call_that_takes_too_long_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    first = SqliteStore(path)
    version = await first.put(KEY, manifest(), None)
    await first.close()
    store = SqliteStore(path, call_s=0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UnavailableError, match="in time"):
        await store.put(KEY, manifest(2), version)
    other.execute("ROLLBACK")
    other.close()
    await store.close()


@pytest.mark.parametrize("content", [b"not a database" * 100, None], ids=["garbage", "foreign"])
async def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.db"
    if content is not None:
        path.write_bytes(content)
    else:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE theirs (x)")
        other.close()
    store = SqliteStore(path)
    with pytest.raises(CorruptError):
        await store.put(KEY, manifest(), None)
    await store.close()
    if content is not None:
        assert path.read_bytes() == content


async def test_a_file_of_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    store = SqliteStore(path)
    await store.put(KEY, manifest(), None)
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    newer = SqliteStore(path)
    with pytest.raises(CorruptError, match="schema 2"):
        await newer.get(KEY)
    await newer.close()


@pytest.mark.parametrize("name", ["absent/m.db", "."], ids=["no directory", "is a directory"])
async def test_a_path_that_cannot_be_opened_is_unavailable(tmp_path: Path, name: str) -> None:
    store = SqliteStore(tmp_path / name)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="reading"):
            await store.get(KEY)
    await store.close()


@pytest.mark.usefixtures("patient")
async def test_two_stores_of_one_file_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    async with _opened(path) as first, _opened(path) as second:
        outcomes = await asyncio.gather(
            *(one.put(KEY, manifest(), None) for one in (first, second)), return_exceptions=True
        )
        assert {type(one) for one in outcomes} == {str, ConflictError}
        assert await first.get(KEY) == await second.get(KEY)


class _Contended(sqlite3.Connection):
    """What SQLite answers, without a wait, to one of two that turn a new file over at once."""

    refusals = 0

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if "journal_mode" in sql and _Contended.refusals:
            _Contended.refusals -= 1
            exc = sqlite3.OperationalError("database is locked")
            exc.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise exc
        return super().execute(sql, *args)


@pytest.fixture
def contended(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Contended]]:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=_Contended))
    yield _Contended
    _Contended.refusals = 0


async def test_a_new_file_that_another_turns_over_is_waited_for(
    tmp_path: Path, contended: type[_Contended]
) -> None:
    contended.refusals = 3
    async with _opened(tmp_path / "m.db") as store:
        await store.put(KEY, manifest(), None)
    assert contended.refusals == 0


async def test_a_file_that_stays_locked_is_unavailable_in_time(
    tmp_path: Path, contended: type[_Contended]
) -> None:
    contended.refusals = 1_000_000
    async with _opened(tmp_path / "m.db") as store:
        with pytest.raises(UnavailableError, match="database is locked"):
            await store.put(KEY, manifest(), None)


async def test_a_second_store_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    async with _opened(path) as first, _opened(path) as second:
        await first.put(KEY, manifest(), None)
        await second.get(KEY)
        assert await asyncio.to_thread(_is_locked_for_others, path)


def _is_locked_for_others(path: Path) -> bool:
    probe = [sys.executable, "-c", LOCKER, str(path)]
    return subprocess.run(probe, timeout=10, check=True, capture_output=True).stdout == b"held"


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, call_s=CALL_S)
    try:
        yield store
    finally:
        await store.close()
