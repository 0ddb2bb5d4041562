"""Today's programs read what every release wrote."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

import pytest

from agentd import native
from agentd.engine.home import read_installation_id
from agentd.engine.journal import Journal
from agentd.engine.journal_records import Role
from agentd.engine.records import Records
from agentd.image.store import load_image
from agentd.providers.ledger import Ledger, Order
from agentd.store.templates import TemplateStore
from controlplane.store import codec
from controlplane.store.sqlite import SqliteStore
from tests.adapters.controlplane.store.samples import KEY, manifest
from tests.adapters.providers.test_ledger import MADE

from .make import BOOT_ID, OWNER, merge_argv
from .pagers import begins, leaves


def test_the_journal(kept: Path) -> None:
    journal, found = Journal.open(kept / "journal", "another boot")
    journal.close()
    assert found.boot_id == BOOT_ID
    session = found.vms["s-1"].running
    assert session is not None
    assert session.session is not None
    assert (session.pid, session.session.metadata) == (4711, {"who": "me"})
    assert found.vms["s-2"].intended.role is Role.PARKED
    assert found.templates["t"].failed is not None


@pytest.mark.parametrize("name", ["plain", "cluster"])
def test_a_template(kept: Path, name: str) -> None:
    with TemplateStore(kept / "data", owner=OWNER, copier=native.copy_memory) as store:
        assert [one.manifest.name for one in store.list()] == ["cluster", "plain"]
        store.verify(name)
        template = store.load(name)
    assert (template.manifest.snapshot is not None) == (name == "cluster")
    template.close()


def test_an_image(kept: Path) -> None:
    load_image(kept / "image", kept).verify_digests()


def test_an_order_of_a_sandboxer(kept: Path) -> None:
    found = Ledger(kept / "orders").find(MADE.key)
    assert isinstance(found, Order)
    assert found == MADE


def test_the_installation_id(kept: Path) -> None:
    before = (kept / "installation/installation-id").read_text()
    assert f"{read_installation_id(kept / 'installation')}\n" == before


def test_the_history(kept: Path) -> None:
    problems: list[str] = []
    records = Records(kept / "history.db", problems.append)
    records.session_started("s-9", "python", "fork", 1.0, 1.0)
    assert records.close(10.0)
    connection = sqlite3.connect(kept / "history.db")
    rows = connection.execute("SELECT id, reason FROM sessions ORDER BY id").fetchall()
    connection.close()
    assert (rows, problems) == ([("s-1", "deleted"), ("s-9", None)], [])


async def test_snapshots_of_a_cluster(kept: Path) -> None:
    assert codec.decode(KEY, (kept / "snapshot.json").read_bytes()).manifest == manifest()
    store = SqliteStore(kept / "snapshots.db")
    found = await store.get(KEY)
    await store.close()
    assert found is not None
    assert found.manifest == manifest()


def test_a_record_makes_the_working_set_that_it_made_then(kept: Path) -> None:
    subprocess.run(merge_argv(kept, kept / "new"), check=True, capture_output=True)
    assert (kept / "new").read_bytes() == (kept / "set").read_bytes()


def test_a_journal_of_the_page_server_whose_machine_is_gone(kept: Path) -> None:
    with begins(kept) as pager:
        assert pager.answers()
        assert leaves(pager) == []
