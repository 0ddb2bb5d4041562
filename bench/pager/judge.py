"""Compare what was found with what is promised."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from agentd.cli.report_stats import quantile, samples_needed
from agentd.errors import InvariantError
from agentd.units import MIB
from bench.pager.lasting import Idle, Restart
from bench.pager.measure import Found
from bench.pager.placement import Placement
from bench.pager.stand import Clone
from bench.pager.workload import PAGE_BYTES, WRITTEN
from bench.promises import Promise

STALL_LIMIT_MS: Final = 50.0
IDLE_LIMIT_BYTES: Final = 1_000_000
# One processor's share that counts as none: 1 ms in a second.
IDLE_LIMIT_CPU: Final = 0.001


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, the lowest and the highest."""

    median: float
    low: float
    high: float

    def words(self, digits: int, unit: str = "") -> str:
        """For people."""
        return f"{self.median:.{digits}f}{unit} ({self.low:.{digits}f}..{self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], base: Sequence[float]) -> Spread:
    """How many times the base ours is, round by round: what slows a round down slows both."""
    return spread([a / b for a, b in zip(ours, base, strict=True)])


def mean_total_ms(rounds: Sequence[Sequence[Clone]]) -> list[float]:
    """The mean time to the working set of the machines of each round."""
    return [statistics.fmean(clone.total_ns for clone in clones) / 1e6 for clones in rounds]


def methods(rounds: Sequence[Sequence[Clone]]) -> str:
    """What our server chose."""
    return "/".join(sorted({str((one.served or {}).get("method")) for r in rounds for one in r}))


def compared(
    name: str, limit: float, ours: Sequence[float], base: Sequence[float], words: str
) -> Promise:
    """A ratio that must not be above its limit."""
    ratio = ratios(ours, base)
    samples = {"ours": list(ours), "base": list(base)}
    measured = f"{ratio.words(3)}; {words}"
    return Promise(name, f"<= {limit:.2f}", measured, ratio.median <= limit, samples)


def time_to_set(
    name: str, limit: float, found: Found, ours: str, base: str, raw: str = ""
) -> Promise:
    """One way's time to the working set beside another's; milliseconds.

    raw: the smallest program that does the same, whose ratio is what can be had here.
    """
    our_ms, base_ms = mean_total_ms(found.rounds[ours]), mean_total_ms(found.rounds[base])
    words = f"{spread(our_ms).words(1)} / {spread(base_ms).words(1)} ms"
    words += f", {methods(found.rounds[ours])}"
    if raw:
        floor = ratios(mean_total_ms(found.rounds[raw]), base_ms)
        words += f"; the smallest program that does the same {floor.words(2)}"
    return compared(name, limit, our_ms, base_ms, words)


def working_set(found: Found) -> list[Promise]:
    """The rows about the time to the working set."""
    rows = [
        ("warm, one clone", 0.75, "ours", "map", "raw-before"),
        ("warm, one clone, memfd hand-over", 0.75, "ours-memfd", "map", "raw-share"),
        ("cold, one clone", 0.07, "ours-cold", "map-cold", "raw-while-cold"),
        ("warm, 8 clones, mean", 0.75, "ours-8", "map-8", "raw-before-8"),
        ("warm, 8 clones, mean, memfd hand-over", 0.75, "ours-memfd-8", "map-8", "raw-share-8"),
        ("cold, 8 clones, mean", 0.17, "ours-8-cold", "map-8-cold", "raw-before-8-cold"),
        ("warm, 90 % recorded", 0.85, "ours-90", "map", ""),
        ("warm, 90 % recorded, memfd hand-over", 0.85, "ours-memfd-90", "map", ""),
        ("warm, 70 % recorded", 1.10, "ours-70", "map", ""),
        ("warm, 70 % recorded, memfd hand-over", 1.10, "ours-memfd-70", "map", ""),
    ]
    return [
        time_to_set(f"{name} / MAP_PRIVATE", limit, found, ours, base, raw)
        for name, limit, ours, base, raw in rows
    ]


def faults(found: Found) -> list[Promise]:
    """Single faults beside the smallest loop's, wherever the page server runs."""
    rows = []
    for placement in Placement:
        for share, limit in ((0.5, 1.2), (0.99, 1.5)):
            ours = _quantiles(found.faults["ours"][placement], share)
            raw = _quantiles(found.faults["raw"][placement], share)
            kernel = _quantiles(found.faults["anonymous"][placement], share)
            words = f"{spread(ours).words(1)} / {spread(raw).words(1)} us"
            words += f", the kernel's own {spread(kernel).words(1)}"
            if placement is Placement.OTHER_CORE:
                words += "; ours looks out for the next fault before it sleeps, the loop does not"
            name = f"4 KiB fault p{100 * share:.0f} / smallest loop, {placement}"
            rows.append(compared(name, limit, ours, raw, words))
    return rows


def _quantiles(rounds: Sequence[Sequence[float]], share: float) -> list[float]:
    return [quantile(sorted(values), share) for values in rounds]


def prefetch(found: Found) -> Promise:
    """What a page of a working set takes beyond a hand-over with none, beside pages in bulk.

    Only pages that were copied count as pages, zeros that the guest writes to among them: zeros
    that are mapped are cheaper.
    """
    ours = [
        (_resume_us(full) - _resume_us(none)) / full[0].counters["copied"]
        for full, none in zip(found.rounds["ours"], found.rounds["ours-demand"], strict=True)
    ]
    bulk, runs, best = (
        [_install_us(clones[0]) for clones in found.rounds[key]]
        for key in ("raw-bulk", "raw-runs", "raw-before")
    )
    words = (
        f"{spread(ours).words(2)} / {spread(bulk).words(2)} us, {methods(found.rounds['ours'])}; "
        f"raw, same runs {spread(runs).words(2)}, with zeros mapped {spread(best).words(2)}"
    )
    return compared("prefetch / raw bulk UFFDIO_COPY, a page", 1.1, ours, bulk, words)


def _resume_us(clones: Sequence[Clone]) -> float:
    return (clones[0].resumed_ns - clones[0].mapped_ns) / 1e3


def _install_us(clone: Clone) -> float:
    return float(clone.counters["install_ns"]) / 1e3 / float(clone.counters["installed"])


def memory(found: Found) -> Promise:
    """Private memory of clones on a shared template, by what the guest wrote."""
    written = WRITTEN * PAGE_BYTES
    shares = [
        statistics.fmean(clone.memory["private_dirty"] for clone in clones) / written
        for clones in found.rounds["ours-memfd-8"]
    ]
    copied = statistics.median(
        clone.memory["private_dirty"] for clones in found.rounds["ours-8"] for clone in clones
    )
    words = f"{spread(shares).words(3)}; {written / MIB:.1f} MiB written"
    words += f"; by copying {copied / MIB:.1f} MiB, no limit"
    name = "private memory / written pages, 8 clones, memfd hand-over"
    kept = spread(shares).median <= 1.05
    return Promise(name, "<= 1.05", words, kept, {"ours": shares})


def restart(kills: Sequence[Restart], undisturbed: Sequence[Restart]) -> list[Promise]:
    """The longest wait of a machine whose page server is killed; whether it saw a wrong byte."""
    missed = sum(not one.is_meant for one in kills)
    if missed:
        raise InvariantError(f"{missed} of {len(kills)} kills were not while a machine ran")
    stalls = [one.longest_ns / 1e6 for one in kills]
    calm = [one.longest_ns / 1e6 for one in undisturbed]
    wrong = sum(one.wrong for one in (*kills, *undisturbed))
    words = f"{max(stalls):.1f} ms; {spread(stalls).words(1)} of {len(stalls)}"
    words += f", without a kill {spread(calm).words(1)}"
    samples = {
        "kills": [asdict(one) for one in kills],
        "calm": [asdict(one) for one in undisturbed],
    }
    limit = f"<= {STALL_LIMIT_MS:.0f} ms"
    kept = max(stalls) <= STALL_LIMIT_MS
    return [
        Promise("restart, longest stall", limit, words, kept, samples),
        Promise("wrong pages in machines whose server died", "0", str(wrong), wrong == 0),
    ]


def idle(found: Idle) -> list[Promise]:
    """Memory and processor time of machines that do nothing."""
    size, share = found.bytes_per_machine, found.cpu_share
    memory_words = f"{size / 1e3:.0f} kB each, page tables included"
    cpu_words = f"{100 * share:.3f} % of a processor over {found.watched_s:.0f} s"
    return [
        Promise(
            f"{found.machines} idle machines, memory",
            "< 1 MB each",
            memory_words,
            size < IDLE_LIMIT_BYTES,
            asdict(found),
        ),
        Promise(
            f"{found.machines} idle machines, processor time",
            f"<= {100 * IDLE_LIMIT_CPU:.1f} %",
            cpu_words,
            share <= IDLE_LIMIT_CPU,
        ),
    ]


def reported(found: Found) -> list[Promise]:
    """What has no limit of its own."""
    ours, raw = found.first_page_us["ours"], found.first_page_us["raw"]
    words = f"{tail_words(ours)}; smallest loop {tail_words(raw)}"
    first = Promise("connect to first page", "reported", words, True, dict(found.first_page_us))
    listens = [clone.prepare_ns / 1e3 for r in found.rounds["ours"] for clone in r]
    listen = Promise("listen, before the clock starts", "reported", tail_words(listens), True)
    others = [
        ("warm, large folios / MAP_PRIVATE", "ours-whole", "map-whole"),
        ("warm, large folios, memfd hand-over / MAP_PRIVATE", "ours-memfd", "map-whole"),
        ("warm, large folios, 8 clones, mean / MAP_PRIVATE", "ours-8-whole", "map-8-whole"),
        ("warm, zeros are holes / MAP_PRIVATE", "ours-sparse", "map-sparse"),
        ("warm, zeros are holes, memfd hand-over / MAP_PRIVATE", "ours-memfd-sparse", "map-sparse"),
        ("cold, zeros are holes / MAP_PRIVATE", "ours-sparse-cold", "map-sparse-cold"),
    ]
    rows = [_unjudged(time_to_set(name, 0, found, ours, base)) for name, ours, base in others]
    return [first, listen, *rows]


def _unjudged(row: Promise) -> Promise:
    return Promise(row.name, "reported", row.measured, True, row.samples)


def tail_words(values_us: Sequence[float]) -> str:
    """The median with as much of the tail as that many samples carry."""
    ordered = sorted(values_us)
    carried = [one for one in (50, 95, 99) if one == 50 or len(ordered) >= samples_needed(one)]
    words = ", ".join(f"p{one} {quantile(ordered, one / 100):.0f}" for one in carried)
    return f"{words} us of {len(ordered)}"


def judge(found: Found, idle_found: Idle) -> list[Promise]:
    """Every row of the table."""
    return [
        *faults(found),
        prefetch(found),
        *working_set(found),
        memory(found),
        *restart(found.kills, found.calm),
        *idle(idle_found),
        *reported(found),
    ]
