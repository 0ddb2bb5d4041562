"""What comes with a fault outside the working set: what follows it, of its kind, up to a bound."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from agentd.wire.pager import MachineStats
from tests.torture.programs import Programs

from .service import PAGES, Service, service_of

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="userfaultfds of a guest's memory need root"
)

WINDOW = 16
FIRST_REGION = 600
BOUND = PAGES // 16


def write_image(programs: Programs, path: Path) -> None:
    """All content, and in the page cache: what a disk is waited for brings nothing with it."""
    command = [str(programs.image), "--seed", "9", "--pages", str(PAGES)]
    subprocess.run([*command, "--zero-share", "0", str(path)], check=True)
    path.read_bytes()


@pytest.fixture
async def service(programs: Programs) -> AsyncIterator[Service]:
    """A page server, and an image that is all content."""
    with tempfile.TemporaryDirectory(prefix="pager-") as made:
        async with service_of(programs, Path(made), has_keeper=False) as begun:
            write_image(programs, begun.files.work_dir / "image")
            await begun.begin()
            yield begun


async def touch(service: Service, pages: Sequence[int]) -> MachineStats:
    """Have a machine touch pages one after the other; what the page server says of it then."""
    trace = service.files.work_dir / "trace"
    trace.write_text("".join(f"{page} r\n" for page in pages))
    machine = await service.machine("a", "firecracker", "--trace", str(trace))
    await service.served("a")
    said = await machine.say("run")
    assert (said.touches, said.wrong) == (len(pages), 0)
    (found,) = (await service.host.client.stats()).machines
    return found


async def test_a_fault_brings_the_fifteen_pages_after_it(service: Service) -> None:
    found = await touch(service, range(100, 100 + WINDOW))
    assert (found.faults, found.copied) == (1, WINDOW)


async def test_the_page_after_these_is_asked_for(service: Service) -> None:
    found = await touch(service, [100, 100 + WINDOW])
    assert (found.faults, found.copied) == (2, 2 * WINDOW)


async def test_the_page_before_is_asked_for_and_comes_alone(service: Service) -> None:
    found = await touch(service, [100, 99])
    assert (found.faults, found.copied) == (2, WINDOW + 1)


async def test_nothing_comes_from_beyond_the_end_of_a_region(service: Service) -> None:
    found = await touch(service, [FIRST_REGION - 2, FIRST_REGION])
    assert (found.faults, found.copied) == (2, 2 + WINDOW)


async def test_what_nobody_asked_for_is_bounded(service: Service) -> None:
    """A guest whose touches lie far apart would else take many times what it uses."""
    asked = range(0, 500, 25)
    found = await touch(service, asked)
    assert found.faults == len(asked)
    assert found.copied - len(asked) == BOUND - BOUND % (WINDOW - 1)
