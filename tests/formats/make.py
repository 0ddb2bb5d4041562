"""Write the files of this release with the programs' own code: `python -m tests.formats.make`.

Once for each release that changes a format. Shapes of a version that is known are written anew only
for formats that are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from agentd import RELEASE, native
from agentd.engine.home import read_installation_id
from agentd.engine.journal import Journal
from agentd.engine.journal_records import (
    Opened,
    Role,
    SessionFacts,
    TemplateBegun,
    TemplateFailed,
    VmEnding,
    VmIntended,
    VmRunning,
)
from agentd.engine.records import Records
from agentd.pager.places import own_binary
from agentd.providers.ledger import Ledger
from agentd.store.seal import SealRequest
from agentd.store.templates import TemplateStore
from agentd.units import MIB, PAGE_BYTES
from agentd.wire import manifest as template
from agentd.wire.api import SessionMode
from controlplane.store import codec
from controlplane.store.sqlite import SqliteStore
from tests.adapters.controlplane.store.samples import KEY, manifest
from tests.adapters.providers.test_ledger import MADE
from tests.adapters.store.support import GUEST, IMAGE, VMM, make_state
from tests.fakes.daemon import make_image
from tests.integration.pager.service import service_of
from tests.torture.programs import build_programs

from .table import FIXTURES, FORMATS, ROOT, SHAPES

OWNER: Final = "node-1"
BOOT_ID: Final = "6b1f0d3e-0000-4000-8000-000000000001"
PAGES: Final = 20
DIGEST: Final = "07" * 32
PAGER_VM: Final = "vm-kept"


def main() -> int:
    """Exit status 2 for a changed shape under a version that is known."""
    if status := _write_shapes():
        return status
    root = FIXTURES / RELEASE
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    _journal(root)
    _templates(root)
    _orders_and_history(root)
    asyncio.run(_snapshots(root))
    _working_set(root)
    asyncio.run(_pager_journal(root))
    return 0


def _write_shapes() -> int:
    known = json.loads(SHAPES.read_text()) if SHAPES.exists() else {}
    for one in FORMATS:
        versions = known.setdefault(one.name, {})
        if versions.get(one.version, one.fingerprint) != one.fingerprint and not one.is_open:
            print(f"{one.name}: another shape needs another version", file=sys.stderr)
            return 2
        versions[one.version] = one.fingerprint
    SHAPES.parent.mkdir(parents=True, exist_ok=True)
    SHAPES.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return 0


def _journal(root: Path) -> None:
    """Of a daemon with a session, a half-started machine, a failed template."""
    facts = SessionFacts("python", SessionMode.FORK, 1.0, 3601.0, 900.0, "s-1", {"who": "me"})
    with tempfile.TemporaryDirectory() as made:
        journal, _ = Journal.open(Path(made) / "journal", BOOT_ID)
        for record in (
            Opened(BOOT_ID),
            VmIntended("s-1", Role.SESSION, "/run/snapstart/vms/s-1"),
            VmRunning("s-1", 4711, 12345, facts),
            VmIntended("s-2", Role.PARKED, "/run/snapstart/vms/s-2"),
            VmEnding("s-2", "deleted"),
            TemplateBegun("t", "b-1", "image", 512, 1, 1.0),
            TemplateFailed("t", "template_build_failed", "it failed", "try again"),
        ):
            journal.append(record)
        journal.close()
        shutil.copy(Path(made) / "journal", root / "journal")


def _templates(root: Path) -> None:
    data = root / "data"
    data.mkdir(mode=0o700)
    (root / "installation").mkdir()
    read_installation_id(root / "installation")
    memory_fd, state_fd = _small_memory(), make_state(b"device state")
    with TemplateStore(data, owner=OWNER, copier=native.copy_memory) as store:
        for name, snapshot in (("plain", None), ("cluster", _SNAPSHOT)):
            machine = template.Machine(1, 1)
            request = SealRequest(name, IMAGE, machine, VMM, GUEST, memory_fd, state_fd, snapshot)
            made = store.seal(request)
        (data / "lock").unlink()
        with contextlib.closing(store.adopt_memfds(made, memory_fd, state_fd)) as loaded:
            store.write_digest(loaded)
    make_image(root / "image")


def _small_memory() -> int:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, MIB)
    for page in (0, 7, 200):
        os.pwrite(fd, bytes([page + 1]) * PAGE_BYTES, page * PAGE_BYTES)
    return fd


_SNAPSHOT: Final = template.SnapshotFacts("cluster-uid", "team", "python", "snap-uid", "sha256:1")


def _orders_and_history(root: Path) -> None:
    ledger = Ledger(root / "orders")
    ledger.put(MADE)
    records = Records(root / "history.db", lambda words: sys.exit(words))
    records.session_started("s-1", "python", "fork", 1.0, 150.0)
    records.session_ended("s-1", 2.0, "deleted")
    records.template_begun("b-1", "python", "image", 1.0)
    records.close(10.0)


async def _snapshots(root: Path) -> None:
    (root / "snapshot.json").write_text(codec.encode(KEY, manifest(), None))
    store = SqliteStore(root / "snapshots.db")
    await store.put(KEY, manifest(), None)
    await store.close()


def _working_set(root: Path) -> None:
    """A record of an image, as the page server writes one, and what is made of it."""
    image = root / "memory"
    image.write_bytes(b"".join(bytes([page + 1]) * 4096 for page in range(PAGES)))
    pager = ROOT / "native" / "pager"
    parts = [pager / f"{name}.c" for name in ("record", "whole_file", "working_set_file", "image")]
    includes = [f"-I{path}" for path in (ROOT / "native/core", pager, ROOT / "tests/native")]
    source = ROOT / "tests/native/pager/write_record.c"
    with tempfile.TemporaryDirectory() as made:
        writer = Path(made) / "write_record"
        cc = ["cc", "-std=gnu11", *includes, str(source), *map(str, parts), "-o", str(writer)]
        subprocess.run(cc, check=True)
        argv = [str(writer), str(image), "7", str(root / "record"), "3", "4w", "9", "17w"]
        subprocess.run(argv, check=True)
    subprocess.run(merge_argv(root, root / "set"), check=True, capture_output=True)


def merge_argv(root: Path, out: Path) -> list[str]:
    """What makes a working set of the kept record."""
    words = ["working-set", "--image", str(root / "memory"), "--digest", DIGEST]
    words += ["--out", str(out), "--budget-pages", "100", str(root / "record")]
    return [str(own_binary()), *words]


async def _pager_journal(root: Path) -> None:
    """Of a machine that is served."""
    programs = await asyncio.to_thread(build_programs)
    with tempfile.TemporaryDirectory() as made:
        async with service_of(programs, Path(made), has_keeper=True) as service:
            service.host.program = own_binary()
            await service.begin()
            machine = await service.machine(PAGER_VM)
            await service.served(PAGER_VM)
            await machine.say("random 50")
            shutil.copy(service.files.journal_dir / f"{PAGER_VM}.vm", root)


if __name__ == "__main__":
    sys.exit(main())
