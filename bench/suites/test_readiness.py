"""How soon is a listening guest noticed, how long does an injection take?"""

from __future__ import annotations

import pytest

from bench.readiness import measure_readiness
from bench.suites.series import Series


@pytest.mark.budget(quick_s=12, quick=1000, full=5000)
def test_a_guest_is_noticed_and_injected_into(series: Series) -> None:
    """readiness: from the return of the guest's listen(2) to the waiter's connection.

    inject: from there to the guest's STARTED. readiness.wait: how long guest and waiter were ready
    to run in that round while others had the processors. The guest is a stand-in: a process that
    speaks the protocol.
    """
    found = series.once(lambda: measure_readiness(series.wanted))
    guest = {"machine_kind": "stand-in", "unit": "us"}
    series.also_all("readiness", found.noticed_us, **guest)
    series.also_all("inject", found.inject_us, **guest)
    series.also_all("readiness.wait", found.processor_wait_us, **guest)
