"""Pin a machine and who serves it to processors."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from contextlib import contextmanager

from bench.pager.service import Service
from bench.pager.stand import Machine


class Placement(enum.StrEnum):
    """Where the page server runs, seen from the machine: another wake-up each."""

    OTHER_CORE = "other core"
    SAME_CORE = "same core"


@contextmanager
def placed(placement: Placement, machine: Machine, service: Service) -> Iterator[None]:
    """Pin both, for as long as this lasts. Where there is one processor both are the same."""
    everywhere = os.sched_getaffinity(0)
    cores = sorted(everywhere)
    theirs, ours = cores[0], cores[-1] if placement is Placement.OTHER_CORE else cores[0]
    os.sched_setaffinity(machine.vm.pid, {theirs})
    server = None
    if machine.service is not None:
        server = int(service.hello()["pid"])
    elif machine.raw is not None:
        server = machine.raw.pid
    if server is None:
        yield
        return
    os.sched_setaffinity(server, {ours})
    try:
        yield
    finally:
        if machine.service is not None:
            os.sched_setaffinity(server, everywhere)
