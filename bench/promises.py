"""Measure what the README promises, on real machines, in one run.

make bench           a table of promises; exit status 1 when one is not kept
make bench JSON=1    and one JSON object as the last line
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from agentd.cli.demo import build_with_progress, step
from agentd.cli.demo_machine import describe_machine
from agentd.cli.demo_starts import start_session
from agentd.cli.report_stats import quantile, samples_needed
from agentd.cli.tables import new_console
from agentd.client.calls import status
from agentd.engine.usage import read_private_bytes
from agentd.errors import ErrorCode, InvariantError, UsageError
from agentd.units import MIB
from agentd.wire import api
from bench.bare_fork import NUMPY_REQUEST, TRIVIAL_REQUEST, BareTemplate, Machine
from bench.demo import IMAGES, MEMORY_MIB, TEMPLATE
from bench.machine import ROOT, read_commit
from bench.node import Node
from bench.paired import paired_ratio
from bench.readiness import Readiness, measure_readiness
from bench.sealing import measure_sealing
from bench.target import run_target

TOGETHER = 8
READINESS_ROUNDS = 1000

console = new_console(sys.stderr)


@dataclass(frozen=True)
class Promise:
    """One line of the table. is_kept: whether `measured` satisfies `promised`."""

    name: str
    promised: str
    measured: str
    is_kept: bool
    samples: dict[str, Any] = field(default_factory=dict)


def fork_overhead(node: Node, bare: BareTemplate, pairs: int) -> tuple[Promise, list[float]]:
    """agentd's fork beside the bare one, each first in every other pair."""
    ours: list[float] = []
    floor: list[float] = []

    def fork_ours() -> None:
        start = start_session(node, TEMPLATE)
        start.sandbox.kill()
        ours.append(start.sample.ms)

    def fork_bare() -> None:
        machine, sample = bare.fork(NUMPY_REQUEST)
        machine.kill()
        floor.append(sample.total_ms)

    for number in range(pairs):
        for fork in (fork_ours, fork_bare) if number % 2 else (fork_bare, fork_ours):
            fork()
    ratio = paired_ratio(ours, floor)
    measured = f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {ratio.pairs} pairs"
    samples = {"fork_ms": ours, "bare_fork_ms": floor}
    return Promise("fork / bare fork", "<= 1.10", measured, ratio.median <= 1.10, samples), ours


def cold_against_fork(node: Node, forks: list[float], count: int) -> list[Promise]:
    """Boot, against the forks just measured; for the trivial request too."""
    cold = [_cold_ms(node, NUMPY_REQUEST) for _ in range(count)]
    trivial_cold = [_cold_ms(node, TRIVIAL_REQUEST) for _ in range(count)]
    trivial = []
    for _ in range(count * 3):
        start = start_session(node, TEMPLATE, code=TRIVIAL_REQUEST)
        start.sandbox.kill()
        trivial.append(start.sample.ms)
    times = statistics.median(cold) / statistics.median(forks)
    trivial_times = statistics.median(trivial_cold) / statistics.median(trivial)
    return [
        Promise("cold / fork", ">= 12", f"{times:.1f}", times >= 12, {"cold_ms": cold}),
        Promise(
            "cold / fork, trivial request",
            "reported",
            f"{trivial_times:.1f}",
            True,
            {"cold_ms": trivial_cold, "fork_ms": trivial},
        ),
    ]


def _cold_ms(node: Node, code: str) -> float:
    start = start_session(node, TEMPLATE, mode=api.SessionMode.COLD, code=code)
    start.sandbox.kill()
    return start.sample.ms


def memory(node: Node, bare: BareTemplate) -> list[Promise]:
    """Private memory of 8 live forks after one request each; agentd's own."""
    starts = [start_session(node, TEMPLATE) for _ in range(TOGETHER)]
    usages = node.usages()
    ours = [usages[start.sandbox.sandbox_id].private_bytes / MIB for start in starts]
    rss = node.rss_bytes() / MIB
    for start in starts:
        start.sandbox.kill()
    floor = _bare_private_mib(bare)
    ratio = statistics.median(ours) / statistics.median(floor)
    samples = {"private_mib_per_fork": ours, "bare_private_mib_per_fork": floor}
    words = f"{ratio:.3f} ({statistics.median(ours):.1f} MiB)"
    return [
        Promise("private memory / bare", "0.90 to 1.10", words, 0.9 <= ratio <= 1.1, samples),
        Promise("agentd resident, 8 sessions", "< 80 MiB", f"{rss:.1f} MiB", rss < 80),
    ]


def _bare_private_mib(bare: BareTemplate) -> list[float]:
    machines: list[Machine] = []
    try:
        for _ in range(TOGETHER):
            machines.append(bare.fork(NUMPY_REQUEST)[0])
        return [read_private_bytes(one.process.pid) / MIB for one in machines]
    finally:
        for machine in machines:
            machine.kill()


def readiness(rounds: int) -> list[Promise]:
    """Noticing a guest, injecting into it; a stand-in guest."""
    if rounds < samples_needed(99):
        raise InvariantError(f"{rounds} rounds do not carry a p99")
    found = measure_readiness(rounds)
    noticed = quantile(sorted(found.noticed_us), 0.99) / 1e3
    inject = statistics.median(found.inject_us) / 1e3
    noticed_words = f"{percentiles(found.noticed_us)}; {late_rounds(found)}"
    inject_words = f"{percentiles(found.inject_us)} (stand-in guest)"
    samples = asdict(found)
    return [
        Promise("readiness noticed", "p99 < 1 ms", noticed_words, noticed < 1, samples),
        Promise("inject", "p50 < 0.5 ms", inject_words, inject < 0.5),
    ]


def percentiles(values_us: Sequence[float]) -> str:
    """For people, in milliseconds."""
    ordered = sorted(values_us)
    p50, p95, p99 = (quantile(ordered, share) / 1e3 for share in (0.5, 0.95, 0.99))
    return f"p50 {p50:.3f}, p95 {p95:.3f}, p99 {p99:.3f} ms, {len(ordered)} rounds"


def late_rounds(found: Readiness) -> str:
    """How many rounds took a millisecond, and in how many a busy machine was the reason."""
    pairs = zip(found.noticed_us, found.processor_wait_us, strict=True)
    late = [noticed - waited < 1000 for noticed, waited in pairs if noticed >= 1000]
    return f"{len(late)} over 1 ms, {sum(late)} of them for want of a free processor"


def sealing(rounds: int) -> Promise:
    """Throughput against a plain copy of the data that is written."""
    build = ROOT / "build"
    sealed, plain = measure_sealing(rounds, build)
    ratio = paired_ratio(plain, sealed)  # both move the same bytes: time ratio, upside down
    measured = f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f}), {ratio.pairs} pairs"
    samples = {"seal_ms": sealed, "plain_copy_ms": plain}
    return Promise(
        "seal / plain copy, throughput", ">= 0.8x", measured, ratio.median >= 0.8, samples
    )


def measure_all(pairs: int, cold: int) -> tuple[list[Promise], str, str]:
    """Every promise; with the accelerator, the QEMU version."""
    image = build_with_progress(IMAGES)
    promises = []
    with Node(IMAGES, MACHINES__MEMORY_MIB=str(MEMORY_MIB)) as node:
        facts = node.send(status())
        with step(console, "template"):
            node.build_template(TEMPLATE, str(image.directory), memory_mib=MEMORY_MIB)
        bare = BareTemplate(image.directory, qemu="qemu-system-x86_64", accel=facts.accel)
        with bare:
            with step(console, f"{pairs} pairs of forks"):
                overhead, forks = fork_overhead(node, bare, pairs)
            promises.append(overhead)
            with step(console, "cold starts"):
                promises += cold_against_fork(node, forks, cold)
            with step(console, "memory"):
                promises += memory(node, bare)
    with step(console, "readiness, injection"):
        promises += readiness(READINESS_ROUNDS)
    with step(console, "sealing"):
        promises.append(sealing(15))
    return promises, facts.accel, facts.engine_version


def show(promises: list[Promise]) -> None:
    """The table for people."""
    width = max(len(one.name) for one in promises)
    for one in promises:
        verdict = "kept" if one.is_kept else "NOT KEPT"
        print(f"{one.name:<{width}}  {one.promised:>12}  {verdict:>8}  {one.measured}")
    if not all(one.is_kept for one in promises):
        print("a promise is not kept; if the machine was busy, run it again", file=sys.stderr)


def main() -> int:
    """Exit status: 1 when a promise is not kept, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--cold", type=int, default=5)
    args = parser.parse_args()

    def run() -> int:
        if args.pairs < 1 or args.cold < 1:
            raise UsageError(ErrorCode.REQUEST_INVALID, "--pairs and --cold must be positive")
        promises, accel, version = measure_all(args.pairs, args.cold)
        show(promises)
        is_kept = all(one.is_kept for one in promises)
        if args.json:
            machine = msgspec.to_builtins(describe_machine(version, commit=read_commit()))
            rows = [asdict(one) for one in promises]
            found = {"is_kept": is_kept, "accel": accel, "machine": machine, "promises": rows}
            print(json.dumps(found))
        return 0 if is_kept else 1

    return run_target(run, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
