"""Do accepted requests stay quick when ten times as many arrive as the node can serve?

First the knee: the fewest clients in a closed loop that bring nine tenths of the most forks a
second. Then an open loop at ten times that rate, whose clients say how long they would wait, and a
second one whose clients do not. A request counts as accepted unless it was refused at once: one
that was let in and then failed took for ever.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentd.client import AsyncSandbox
from agentd.errors import ErrorCode, SnapStartError
from agentd.settings.groups import Deadlines
from bench.bundle import nearest_rank
from bench.demo import TEMPLATE
from bench.node import Node
from bench.promises import Promise

TIMES_THE_RATE = 10
TIMES_THE_KNEE = 2.0
_CLIENTS = (1, 2, 4, 8)
_LOOK_S = 5.0  # for each number of clients
_SHARE = 0.9
_DEADLINE_S = Deadlines().fork_s  # of who tells none


@dataclass
class Outcome:
    """What became of requests. late_ms: those that were let in and failed all the same."""

    accepted_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Forks that became ready in a second."""
        return len(self.accepted_ms) / self.seconds

    @property
    def p95_ms(self) -> float:
        """Of the accepted ones; one that came too late took for ever. Infinite without any."""
        ordered = [*sorted(self.accepted_ms), *[math.inf] * len(self.late_ms)]
        return nearest_rank(ordered, 95) if ordered else math.inf


async def request(node: Node, outcome: Outcome, deadline_s: float | None) -> None:
    """One session, ended as soon as it is there."""
    begin = time.perf_counter()
    try:
        sandbox = await AsyncSandbox.create(
            TEMPLATE, socket=node.socket, request_timeout=deadline_s
        )
    except SnapStartError as exc:
        took_s = time.perf_counter() - begin
        # The same code comes at the deadline, of a request that was let in and got no turn.
        if exc.code is ErrorCode.NODE_FULL and took_s < (deadline_s or _DEADLINE_S):
            outcome.refused_ms.append(took_s * 1e3)
        else:
            outcome.late_ms.append(took_s * 1e3)
        return
    outcome.accepted_ms.append((time.perf_counter() - begin) * 1e3)
    await sandbox.kill()


async def closed_loop(node: Node, clients: int, seconds: float) -> Outcome:
    """Each client asks again when it has its answer."""
    outcome = Outcome()
    begin = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() - begin < seconds:
            await request(node, outcome, None)

    await asyncio.gather(*(client() for _ in range(clients)))
    outcome.seconds = time.perf_counter() - begin
    return outcome


async def open_loop(node: Node, rate: float, seconds: float, deadline_s: float | None) -> Outcome:
    """Requests come at their times, whatever became of those before."""
    outcome = Outcome()
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            group.create_task(request(node, outcome, deadline_s))
    outcome.seconds = time.perf_counter() - begin
    return outcome


def choose_knee(looks: Sequence[tuple[int, Outcome]]) -> tuple[int, Outcome]:
    """The fewest clients that come near the most forks a second."""
    most = max(outcome.rate for _, outcome in looks)
    return next(look for look in looks if look[1].rate >= _SHARE * most)


@dataclass(frozen=True)
class Overload:
    """What was met. looks: by number of clients; told, untold: at ten times the knee's rate."""

    looks: Sequence[tuple[int, Outcome]]
    knee: Outcome
    knee_clients: int
    told: Outcome
    untold: Outcome | None


async def _look(node: Node, seconds: float, *, is_whole: bool) -> Overload:
    await request(node, Outcome(), None)  # reads the template into memory
    looks = [(clients, await closed_loop(node, clients, _LOOK_S)) for clients in _CLIENTS]
    clients, _ = choose_knee(looks)
    knee = await closed_loop(node, clients, seconds)
    rate = TIMES_THE_RATE * knee.rate
    told = await open_loop(node, rate, seconds, TIMES_THE_KNEE * knee.p95_ms / 1e3)
    untold = await open_loop(node, rate, seconds, None) if is_whole else None
    return Overload(looks, knee, clients, told, untold)


def look(node: Node, seconds: float, *, is_whole: bool = False) -> Overload:
    """The knee, then ten times its rate. is_whole: also of clients that tell no deadline."""
    return asyncio.run(_look(node, seconds, is_whole=is_whole))


def _judge(found: Overload, untold: Outcome) -> list[Promise]:
    knee, told = found.knee, found.told
    ratio = told.p95_ms / knee.p95_ms
    samples = {
        "knee_clients": found.knee_clients,
        "looks": {number: (one.rate, one.p95_ms) for number, one in found.looks},
        "knee_ms": knee.accepted_ms,
        "told": _telling(told),
        "untold": _telling(untold),
    }
    words = f"{ratio:.2f}: {knee.p95_ms:.0f} ms at {found.knee_clients} clients, {_words(told)}"
    limit = f"<= {TIMES_THE_KNEE:g}"
    without = f"{untold.p95_ms / knee.p95_ms:.2f}: {_words(untold)}"
    return [
        Promise("p95 at 10x / knee, deadline told", limit, words, ratio <= 2.0, samples),
        Promise("the same, none told", "reported", without, True),
    ]


def _words(outcome: Outcome) -> str:
    accepted, late = len(outcome.accepted_ms), len(outcome.late_ms)
    return (
        f"{accepted} accepted, {late} more too late, {len(outcome.refused_ms)} refused, "
        f"p95 {outcome.p95_ms:.0f} ms, {outcome.rate:.1f} a second"
    )


def _telling(outcome: Outcome) -> dict[str, object]:
    return {
        "accepted_ms": outcome.accepted_ms,
        "late_ms": outcome.late_ms,
        "refused_ms": outcome.refused_ms,
        "rate": outcome.rate,
    }


def measure(node: Node, seconds: float) -> list[Promise]:
    """The knee, then ten times its rate, with and without a deadline."""
    found = look(node, seconds, is_whole=True)
    assert found.untold is not None
    return _judge(found, found.untold)
