"""Judge the promises of docs/promises.md by samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from agentd.cli.report_stats import samples_needed
from bench.bundle import Sample, nearest_rank
from bench.paired import paired_ratio
from bench.promises import Promise

NUMPY = {"request": "numpy"}
TRIVIAL = {"request": "trivial"}
LOOKUPS = ("1 snapshots", "100 snapshots", "10000 snapshots")


class NotMeasuredError(Exception):
    """A series has no samples, or too few for what is promised of it."""


class Found:
    """Samples by series and dimensions."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def by_round(self, series: str, **dims: str) -> dict[int, float]:
        """Values of the rounds that did not fail. Raises: NotMeasuredError without any."""
        found = {
            one.round: one.value
            for one in self._samples
            if one.series == series and one.value is not None and dims.items() <= one.dims.items()
        }
        if not found:
            raise NotMeasuredError(f"no samples of {series}")
        return found

    def values(self, series: str, **dims: str) -> list[float]:
        """All values, some of one round perhaps. Raises: NotMeasuredError without any."""
        self.by_round(series, **dims)
        return [
            one.value
            for one in self._samples
            if one.series == series and one.value is not None and dims.items() <= one.dims.items()
        ]

    def count(self, series: str, **dims: str) -> int:
        """How many values there are, none perhaps."""
        return sum(
            one.series == series and dims.items() <= one.dims.items() for one in self._samples
        )

    def pairs(self, ours: str, floor: str, **dims: str) -> tuple[list[float], list[float]]:
        """Values of the rounds in which neither failed."""
        left, right = self.by_round(ours, **dims), self.by_round(floor, **dims)
        both = sorted(left.keys() & right.keys())
        if not both:
            raise NotMeasuredError(f"no round has both {ours} and {floor}")
        return [left[number] for number in both], [right[number] for number in both]

    @property
    def is_emulated(self) -> bool:
        """Whether the machines were."""
        return any(one.machine_kind == "qemu" and one.series == "fork" for one in self._samples)


def judge_promises(samples: Sequence[Sample]) -> list[Promise]:
    """A row for each promise; one that could not be measured is not kept."""
    found = Found(samples)
    return [_judge(name, promised, judge, found) for name, promised, judge in _ROWS]


def _judge(
    name: str, promised: str, judge: Callable[[Found], tuple[bool, str]], found: Found
) -> Promise:
    try:
        is_kept, words = judge(found)
    except NotMeasuredError as exc:
        return Promise(name, promised, f"not measured: {exc}", False)
    return Promise(name, promised, words, is_kept)


def _at_most(
    limit: float, ours: str, floor: str, **dims: str
) -> Callable[[Found], tuple[bool, str]]:
    """Of the median of pairwise ratios."""

    def judge(found: Found) -> tuple[bool, str]:
        ratio = paired_ratio(*found.pairs(ours, floor, **dims))
        words = f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {ratio.pairs} pairs"
        return ratio.median <= limit, words

    return judge


def _cold_against_fork(found: Found) -> tuple[bool, str]:
    times = statistics.median(found.values("cold", **NUMPY)) / statistics.median(
        found.values("fork", **NUMPY)
    )
    return times >= 12 or not found.is_emulated, f"{times:.1f}"


def _trivial_cold_against_fork(found: Found) -> tuple[bool, str]:
    cold, fork = found.values("cold", **TRIVIAL), found.values("fork", **TRIVIAL)
    return True, f"{statistics.median(cold) / statistics.median(fork):.1f}"


def _private_memory(found: Found) -> tuple[bool, str]:
    ours = statistics.median(found.values("memory.private"))
    ratio = ours / statistics.median(found.values("memory.private.bare"))
    return 0.9 <= ratio <= 1.1, f"{ratio:.3f} ({ours:.1f} MiB)"


def _resident(found: Found) -> tuple[bool, str]:
    most = max(found.values("memory.agentd"))
    return most < 80, f"{most:.1f} MiB"


def _tail(values: Sequence[float], percentile: int) -> float:
    if len(values) < (needed := samples_needed(percentile)):
        raise NotMeasuredError(f"{len(values)} samples do not carry a p{percentile}, {needed} do")
    return nearest_rank(sorted(values), percentile)


def _readiness(found: Found) -> tuple[bool, str]:
    noticed, waited = found.pairs("readiness", "readiness.wait")
    words = f"{percentiles(noticed)}; {late_rounds(noticed, waited)}"
    return _tail(noticed, 99) < 1e3, words


def _inject(found: Found) -> tuple[bool, str]:
    values = found.values("inject")
    return statistics.median(values) < 500, f"{percentiles(values)} (stand-in guest)"


def percentiles(values_us: Sequence[float]) -> str:
    """For people, in milliseconds."""
    ordered = sorted(values_us)
    p50, p95, p99 = (nearest_rank(ordered, share) / 1e3 for share in (50, 95, 99))
    return f"p50 {p50:.3f}, p95 {p95:.3f}, p99 {p99:.3f} ms, {len(ordered)} rounds"


def late_rounds(noticed_us: Sequence[float], wait_us: Sequence[float]) -> str:
    """How many rounds took a millisecond, and in how many a busy machine was the reason."""
    pairs = zip(noticed_us, wait_us, strict=True)
    late = [noticed - waited < 1000 for noticed, waited in pairs if noticed >= 1000]
    return f"{len(late)} over 1 ms, {sum(late)} of them for want of a free processor"


def _sealing(found: Found) -> tuple[bool, str]:
    # Both move the same bytes: of throughput it is the time ratio upside down.
    ratio = paired_ratio(*found.pairs("seal.plain", "seal"))
    words = f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f}), {ratio.pairs} pairs"
    return ratio.median >= 0.8, words


def _decision(found: Found) -> tuple[bool, str]:
    tails = [_tail(found.values("lookup", case=case), 99) / 1e3 for case in LOOKUPS]
    words = ", ".join(f"{value:.3f}" for value in tails)
    return max(tails) < 1, f"{words} ms with 1, 100, 10,000 snapshots"


def _flat(found: Found) -> tuple[bool, str]:
    """Without the waits for a processor, which a larger index does not cause."""
    own = [statistics.median(found.values("lookup.own", case=case)) for case in LOOKUPS]
    return max(own) <= 1.5 * min(own), f"{own[-1] / own[0]:.2f} ({own[-1] / 1e3:.3f} ms)"


def _breaker(found: Found) -> tuple[bool, str]:
    cases = ("dead store, breaker open", "silent store, breaker open")
    tails = [_tail(found.values("lookup", case=case), 99) / 1e3 for case in cases]
    return max(tails) < 1, f"dead {tails[0]:.3f} ms, silent {tails[1]:.3f} ms"


def _no_store(found: Found) -> tuple[bool, str]:
    cases = ("dead store", "silent store")
    most = [max(found.values("lookup", case=case)) / 1e3 for case in cases]
    return max(most) < 200, f"dead {most[0]:.1f} ms, silent {most[1]:.1f} ms"


def _burst(found: Found) -> tuple[bool, str]:
    knee = found.values("burst.accepted", load="knee")
    over = [
        *found.values("burst.accepted", load="overload"),
        *[math.inf] * found.count("burst.late", load="overload"),
    ]
    late, usual = _tail(over, 95), _tail(knee, 95)
    words = f"{late / usual:.2f} ({late:.0f} ms of {len(over)}, {usual:.0f} ms of {len(knee)})"
    return late <= 2 * usual, words


_ROWS: Sequence[tuple[str, str, Callable[[Found], tuple[bool, str]]]] = (
    ("fork / bare fork", "<= 1.10", _at_most(1.10, "fork", "fork.bare", **NUMPY)),
    ("cold / fork, emulated", ">= 12", _cold_against_fork),
    ("cold / fork, trivial request", "reported", _trivial_cold_against_fork),
    (
        "32 forks at once / bare",
        "<= 1.15",
        _at_most(1.15, "fan_out", "fan_out.bare", together="32"),
    ),
    ("p95 let in, 10x load / knee", "<= 2.0", _burst),
    ("private memory / bare", "0.90 to 1.10", _private_memory),
    ("agentd resident, 8 sessions", "< 80 MiB", _resident),
    ("readiness noticed", "p99 < 1 ms", _readiness),
    ("inject", "p50 < 0.5 ms", _inject),
    ("seal / plain copy, throughput", ">= 0.8x", _sealing),
    ("decision about a session", "p99 < 1 ms", _decision),
    ("decision, 10,000 snapshots / 1", "<= 1.5", _flat),
    ("decision without a store", "< 200 ms", _no_store),
    ("decision, breaker open", "p99 < 1 ms", _breaker),
    (
        "Kuasar, JSON form / client in C",
        "<= 3.0",
        _at_most(3.0, "kuasar.json", "kuasar.json.floor"),
    ),
    ("Kuasar, gRPC form / grpc.aio", "<= 1.2", _at_most(1.2, "kuasar.grpc", "kuasar.grpc.floor")),
)
