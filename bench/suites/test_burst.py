"""How long do requests take that are let in while ten times too many come?"""

from __future__ import annotations

import pytest

from bench.hot_path.overload import Outcome, look
from bench.node import Node
from bench.suites.series import Series

# A round of this suite is a second of the burst.
_ROUND_S = 1.0


@pytest.mark.budget(quick_s=70, quick=25, full=120)
def test_requests_of_a_burst(series: Series, node: Node, machine: str) -> None:
    """From a request for a session to its end of start, in milliseconds.

    burst.accepted, load=knee: the fewest clients, each asking again when it has its session, that
    bring nearly the most sessions a second; load=overload: requests at ten times that rate, whose
    clients wait at most twice the knee's p95. burst.late: those that were let in and came too late.
    burst.refused: those refused at once, to their refusal. burst.rate: sessions that were ready, a
    second, by clients.
    """

    def tell(found: Outcome, load: str) -> None:
        about = {"machine_kind": machine, "cache": "warm", "load": load}
        outcomes = {
            "burst.accepted": found.accepted_ms,
            "burst.late": found.late_ms,
            "burst.refused": found.refused_ms,
        }
        for name, values in outcomes.items():
            for ms in values:
                series.also(name, ms, **about)

    found = series.once(lambda: look(node, series.wanted * _ROUND_S))
    tell(found.knee, "knee")
    tell(found.told, "overload")
    for clients, one in found.looks:
        series.also("burst.rate", one.rate, unit="1/s", machine_kind=machine, clients=clients)
