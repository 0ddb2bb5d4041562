"""The file: whose it is, what it survives."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from controlplane.errors import ConflictError, CorruptError, UnavailableError
from controlplane.store.sqlite import SqliteStore
from tests.adapters.controlplane.store.samples import KEY, manifest

WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from controlplane.store.sqlite import SqliteStore
from tests.adapters.controlplane.store.samples import KEY, manifest

async def main():
    store, version = SqliteStore(Path(sys.argv[1])), None
    for seq in itertools.count(1):
        version = await store.put(KEY, manifest(seq), version)
        print(seq, flush=True)

asyncio.run(main())
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
    store = SqliteStore(path)
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
    store = SqliteStore(path, call_s=0.1)
    version = await store.put(KEY, manifest(), None)
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


async def test_two_stores_of_one_file_see_each_other(tmp_path: Path) -> None:
    first, second = SqliteStore(tmp_path / "m.db"), SqliteStore(tmp_path / "m.db")
    outcomes = await asyncio.gather(
        *(one.put(KEY, manifest(), None) for one in (first, second)), return_exceptions=True
    )
    assert {type(one) for one in outcomes} == {str, ConflictError}
    assert await first.get(KEY) == await second.get(KEY)
    await first.close()
    await second.close()
