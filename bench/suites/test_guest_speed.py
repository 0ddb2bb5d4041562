"""How much slower does a guest compute than its host?"""

from __future__ import annotations

import time

import pytest

from agentd.client import Sandbox
from agentd.errors import ErrorCode, PeerError
from bench.demo import TEMPLATE
from bench.node import Node
from bench.suites.series import Series

LOOP = "sum(i * i for i in range(200_000))"
CODE = f"import time\nbegin = time.perf_counter()\n{LOOP}\ntime.perf_counter() - begin"


@pytest.mark.budget(quick_s=8, quick=10, full=60)
def test_the_same_loop_in_a_guest_and_outside(series: Series, node: Node, machine: str) -> None:
    """guest_speed: a loop in Python by a session's own clock; guest_speed.host: by this process.

    The first round is a warm-up of both and is not counted. Emulated, the ratio is what emulation
    costs a guest's instructions; with KVM it is about one.
    """
    series.describe("guest_speed.call", machine=machine, cache="warm")
    with node.create(TEMPLATE) as sandbox:
        guest_s(sandbox)
        host_s()

        def both() -> tuple[float, float]:
            return guest_s(sandbox), host_s()

        def after(found: tuple[float, float]) -> None:
            series.also("guest_speed", found[0] * 1e3)
            series.also("guest_speed.host", found[1] * 1e3, machine_kind="none")

        series.rounds(both, after=after)


def guest_s(sandbox: Sandbox) -> float:
    """What the guest's clock says. Raises: PeerError when the code did not run."""
    text = sandbox.run_code(CODE, timeout=120).text
    if text is None:
        raise PeerError(ErrorCode.GUEST_PROTOCOL, f"{sandbox!r} answered nothing to a loop")
    return float(text)


def host_s() -> float:
    """What ours says."""
    begin = time.perf_counter()
    sum(i * i for i in range(200_000))
    return time.perf_counter() - begin
