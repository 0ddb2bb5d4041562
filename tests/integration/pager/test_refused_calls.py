"""A page server whose system call filter refuses a call that it can do without."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.torture.programs import Programs

from .service import PAGES, Service, service_of

REFUSE = Path(__file__).parents[2] / "fakes/refuse_call.py"

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="userfaultfds of a guest's memory need root"),
]


def is_filtered(pid: int) -> bool:
    return "\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()


@pytest.fixture
async def service(programs: Programs, tmp_path: Path) -> AsyncIterator[Service]:
    """Without mincore(2)."""
    async with service_of(programs, tmp_path, has_keeper=False) as service:
        wrapper = tmp_path / "pager"
        words = f'{sys.executable} -I {REFUSE} mincore {programs.pager} "$@"'
        wrapper.write_text(f"#!/bin/sh\nexec {words}\n")
        wrapper.chmod(0o755)
        service.host.program = wrapper
        await service.begin()
        yield service


async def test_a_machine_gets_its_memory_though_nobody_tells_what_is_in_the_page_cache(
    service: Service,
) -> None:
    """What cannot be asked for goes by a reader, once: neither the loop waits, nor the guest for
    ever."""
    assert is_filtered(service.host.pid)
    machine = await service.machine("a")
    assert (await machine.say("random 300")).ok
    said = await machine.say("verify")
    assert (said.pages, said.wrong) == (PAGES, 0)
    assert await service.reasons() == {}
