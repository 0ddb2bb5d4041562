"""Machines of another version's page server wait for one of that version, unharmed."""

from __future__ import annotations

import os
import signal
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.torture.programs import Programs

from .service import PAGES, PATIENCE_S, Service, service_of

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="userfaultfds of a guest's memory need root"),
]
_VERSION_AT = 8  # behind the magic


@pytest.fixture
async def service(programs: Programs) -> AsyncIterator[Service]:
    with tempfile.TemporaryDirectory(prefix="pager-") as made:
        async with service_of(programs, Path(made), has_keeper=True) as running:
            yield running


def add_to_version(journal: Path, number: int) -> None:
    """As if a later page server had written it, or, by -1, an earlier one."""
    with journal.open("r+b", buffering=0) as file:
        (version,) = struct.unpack("=I", os.pread(file.fileno(), 4, _VERSION_AT))
        os.pwrite(file.fileno(), struct.pack("=I", version + number), _VERSION_AT)


@pytest.mark.parametrize("number", [-1, 1], ids=["older", "newer"])
@pytest.mark.parametrize("others", [0, 2], ids=["all journals", "one of them"])
async def test_a_page_server_of_another_version_leaves_machines_as_they_are(
    service: Service, number: int, others: int
) -> None:
    await service.begin()
    machines = []
    for index, protocol in enumerate(("firecracker", "memfd", "firecracker")):
        machines.append(await service.machine(f"vm-{index}", protocol))
        await service.served(f"vm-{index}")
        assert (await machines[-1].say("random 100")).wrong == 0
    await service.end(signal.SIGTERM)
    journals = sorted(service.files.journal_dir.glob("*.vm"))[others:]
    for journal in journals:
        add_to_version(journal, number)

    service.host.start()
    assert await service.host.ended(within_s=PATIENCE_S)
    assert await service.host.bury() > 0

    for journal in journals:
        add_to_version(journal, -number)
    await service.begin()
    for machine in machines:
        said = await machine.say("verify")
        assert (said.pages, said.wrong) == (PAGES, 0)
