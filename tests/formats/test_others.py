"""What is newer is refused and left alone; what is cut or damaged is told."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agentd import native
from agentd.engine.home import read_installation_id
from agentd.engine.journal import Journal
from agentd.engine.records import Records
from agentd.errors import ErrorCode, SnapStartError
from agentd.image.store import load_image
from agentd.providers.ledger import DamagedOrder, Ledger
from agentd.store.templates import TemplateStore
from agentd.wire import manifest as template
from controlplane.errors import CorruptError
from controlplane.store import codec
from controlplane.store.sqlite import SqliteStore
from tests.adapters.controlplane.store.samples import KEY
from tests.adapters.providers.test_ledger import MADE

from .make import OWNER
from .pagers import begins, leaves


def contents(root: Path) -> dict[str, bytes]:
    """Every file below."""
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def newer_journal(line: bytes) -> bytes:
    """The same line of the next format, whose checksum is its own."""
    assert line.startswith(b"1 ")
    return b"2 " + line[2:]


@pytest.mark.parametrize("which", [0, -1], ids=["the first line", "the last line"])
def test_a_newer_journal_is_refused_and_kept(kept: Path, which: int) -> None:
    lines = (kept / "journal").read_bytes().splitlines(keepends=True)
    lines[which] = newer_journal(lines[which])
    (kept / "journal").write_bytes(b"".join(lines))
    before = (kept / "journal").read_bytes()
    with pytest.raises(SnapStartError, match="format 2, this program reads format 1") as info:
        Journal.open(kept / "journal", "boot")
    assert info.value.code is ErrorCode.CONFIG_INVALID
    assert (kept / "journal").read_bytes() == before


def test_a_journal_with_a_member_that_is_not_known_is_refused_and_kept(kept: Path) -> None:
    import zlib

    body = b'{"type":"vm_gone","vm_id":"s-1","more":1}'
    with (kept / "journal").open("ab") as file:
        file.write(b"1 %08x %s\n" % (zlib.crc32(body), body))
    before = (kept / "journal").read_bytes()
    with pytest.raises(SnapStartError, match="is another version's"):
        Journal.open(kept / "journal", "boot")
    assert (kept / "journal").read_bytes() == before


def test_a_cut_journal_loses_its_last_line_alone(kept: Path) -> None:
    data = (kept / "journal").read_bytes()
    (kept / "journal").write_bytes(data[:-3])
    journal, found = Journal.open(kept / "journal", "boot")
    journal.close()
    assert found.templates["t"].failed is None
    assert set(found.vms) == {"s-1", "s-2"}


def rewrite_manifest(path: Path, change: Callable[[bytes], bytes]) -> None:
    body = template._frame(change(path.read_bytes()[template._BODY_AT : -len(template._TAIL)]))
    path.write_bytes(body)


def test_a_template_of_a_newer_format_is_listed_as_such_and_kept(kept: Path) -> None:
    path = kept / "data/templates/plain/manifest.json"
    rewrite_manifest(
        path, lambda body: body.replace(b'"format_version":1', b'"format_version":3,"more":1')
    )
    before = contents(kept / "data/templates")
    with TemplateStore(kept / "data", owner=OWNER, copier=native.copy_memory) as store:
        (broken,) = store.list_broken()
        with pytest.raises(SnapStartError, match="format 3, this program reads"):
            store.load("plain")
    assert broken.error.code is ErrorCode.TEMPLATE_INCOMPATIBLE
    assert contents(kept / "data/templates") == before


def test_a_cut_template_is_listed_as_corrupt_and_kept(kept: Path) -> None:
    path = kept / "data/templates/plain/manifest.json"
    path.write_bytes(path.read_bytes()[:-9])
    before = contents(kept / "data/templates")
    with TemplateStore(kept / "data", owner=OWNER, copier=native.copy_memory) as store:
        (broken,) = store.list_broken()
    assert broken.error.code is ErrorCode.TEMPLATE_CORRUPT
    assert contents(kept / "data/templates") == before


def test_a_newer_image_is_refused_and_kept(kept: Path) -> None:
    path = kept / "image/image.json"
    text = path.read_bytes().replace(b'"format_version":1', b'"format_version":2,"more":1')
    path.write_bytes(text)
    with pytest.raises(SnapStartError, match="format 2, this program reads format 1"):
        load_image(kept / "image", kept)
    assert path.read_bytes() == text


def test_a_cut_image_is_refused(kept: Path) -> None:
    path = kept / "image/image.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SnapStartError, match=r"image\.json"):
        load_image(kept / "image", kept)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        pytest.param(b'"version":1', b'"version":2,"more":1', "format 2", id="newer"),
        pytest.param(b'"version":1', b'"version":1', "", id="cut"),
    ],
)
def test_another_order_is_told_apart_and_kept(kept: Path, old: bytes, new: bytes, why: str) -> None:
    path = kept / "orders" / MADE.key
    text = path.read_bytes().replace(old, new)
    path.write_bytes(text if why else text[:-9])
    before = path.read_bytes()
    found = Ledger(kept / "orders").find(MADE.key)
    assert isinstance(found, DamagedOrder)
    assert why in found.why
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "said"), [("2 whatever\n", "format 2"), ("0d6f", "is not a UUID")]
)
def test_another_installation_id_is_refused_and_kept(kept: Path, text: str, said: str) -> None:
    path = kept / "installation/installation-id"
    path.write_text(text)
    with pytest.raises(SnapStartError, match=said):
        read_installation_id(kept / "installation")
    assert path.read_text() == text


def test_a_newer_history_is_not_written_to(kept: Path) -> None:
    connection = sqlite3.connect(kept / "history.db")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = (kept / "history.db").read_bytes()
    problems: list[str] = []
    records = Records(kept / "history.db", problems.append)
    records.session_started("s-9", "python", "fork", 1.0, 1.0)
    assert records.close(10.0)
    assert "format 2, this program writes format 1" in problems[0]
    assert (kept / "history.db").read_bytes() == before


def test_a_cut_history_is_told_and_stops_nothing(kept: Path) -> None:
    path = kept / "history.db"
    path.write_bytes(path.read_bytes()[:5000])
    problems: list[str] = []
    records = Records(path, problems.append)
    records.session_started("s-9", "python", "fork", 1.0, 1.0)
    assert records.close(10.0)
    assert problems


def test_a_newer_snapshot_is_refused(kept: Path) -> None:
    body = msgspec.json.decode((kept / "snapshot.json").read_bytes())
    body["schemaVersion"] = 2
    with pytest.raises(CorruptError, match="schemaVersion is 2, this program knows 1"):
        codec.decode(KEY, msgspec.json.encode(body))


def test_a_cut_snapshot_is_refused(kept: Path) -> None:
    with pytest.raises(CorruptError, match="cannot be used"):
        codec.decode(KEY, (kept / "snapshot.json").read_bytes()[:-5])


async def test_a_newer_file_of_snapshots_is_refused_and_kept(kept: Path) -> None:
    path = kept / "snapshots.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = path.read_bytes()
    store = SqliteStore(path)
    with pytest.raises(CorruptError, match="schema 2"):
        await store.get(KEY)
    await store.close()
    assert path.read_bytes() == before


def change_head(kept: Path, version: int) -> Path:
    (path,) = kept.glob("*.vm")
    data = bytearray(path.read_bytes())
    struct.pack_into("=I", data, 8, version)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("version", [1, 3], ids=["older", "newer"])
def test_another_journal_of_the_page_server_ends_it_and_is_kept(kept: Path, version: int) -> None:
    path = change_head(kept, version)
    with begins(kept) as pager:
        _, said = pager.process.communicate(timeout=20)
        assert pager.process.returncode not in (0, None)
        assert "journal.version" in said
        assert leaves(pager) == [path.name]
        assert (pager.journal_dir / path.name).read_bytes() == path.read_bytes()


def test_a_cut_journal_of_the_page_server_was_never_finished(kept: Path) -> None:
    (path,) = kept.glob("*.vm")
    path.write_bytes(path.read_bytes()[:4096])
    with begins(kept) as pager:
        assert pager.answers()
        assert leaves(pager) == []


@pytest.mark.parametrize("name", ["record", "set"])
def test_another_record_or_set_is_refused_and_kept(kept: Path, name: str, tmp_path: Path) -> None:
    import subprocess

    from .make import merge_argv

    path = kept / "record"
    if name == "set":
        shutil.copy(kept / "set", path)  # of another kind
    data = bytearray(path.read_bytes())
    struct.pack_into("=I", data, 8, 9)
    path.write_bytes(data)
    done = subprocess.run(merge_argv(kept, tmp_path / "out"), capture_output=True, check=False)
    assert done.returncode != 0
    assert path.read_bytes() == bytes(data)
    assert not (tmp_path / "out").exists()
