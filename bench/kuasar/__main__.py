"""Measure what agentd adds to a call of Kuasar's sandboxer.

python -m bench.kuasar           a table; exit status 1 when a promise is not kept
python -m bench.kuasar --json    and one JSON object as the last line

The sandboxer is the stand-in of the tests, a Python process: a real one answers sooner. What is
compared is whole calls, each taken in turn with the floor's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import msgspec
import uvloop

from agentd.cli.demo_machine import describe_machine
from agentd.cli.report_stats import quantile
from agentd.cli.tables import new_console
from agentd.kuasar.client import Form
from bench.kuasar import measure
from bench.kuasar.floor import RawClient
from bench.machine import ROOT, read_commit
from bench.paired import paired_ratio
from bench.promises import Promise, show
from bench.target import run_target

console = new_console(sys.stderr)


@contextlib.contextmanager
def sandboxer() -> Iterator[Path]:
    """The stand-in as a process. Yields: the directory of its sockets."""
    with tempfile.TemporaryDirectory(prefix="kb-") as directory:
        argv = [sys.executable, "-m", "bench.kuasar.standin", directory]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("the stand-in sandboxer did not start")
            yield Path(directory)
            process.stdin.close()


def overhead(name: str, promised: float, ours: list[float], floor: list[float]) -> Promise:
    """One adapter beside its floor; microseconds."""
    ratio = paired_ratio(ours, floor)
    words = (
        f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), {ratio.pairs} pairs; "
        f"ours {_spread(ours)}, floor {_spread(floor)}"
    )
    samples = {"call_us": ours, "floor_us": floor}
    return Promise(name, f"<= {promised:.1f}", words, ratio.median <= promised, samples)


def _spread(values_us: list[float]) -> str:
    ordered = sorted(values_us)
    return "/".join(f"{quantile(ordered, share):.0f}" for share in (0.5, 0.95, 0.99)) + " us"


def _longest(ticks_ms: list[float]) -> str:
    p99 = quantile(ticks_ms, 0.99)
    return f"{ticks_ms[-1]:.2f} ms, p99 {p99:.2f} ms of {len(ticks_ms)} ticks"


def crowd(name: str, found: measure.Crowd) -> list[Promise]:
    """A create with 64 inspects beside it; what held the loop meanwhile."""
    ratio = paired_ratio(found.crowded_ms, found.alone_ms)
    words = (
        f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), "
        f"{statistics.median(found.inspects):.0f} inspects each"
    )
    ticks, idle = sorted(found.held_ms), sorted(found.idle_ms)
    held = f"{_longest(ticks)}; idle {_longest(idle)}"
    # What the machine itself does to an idle loop is nobody's block.
    is_kept = ticks[-1] <= max(5.0, idle[-1])
    return [
        Promise(
            f"create among {measure.CROWD} inspects / alone, {name}",
            "<= 1.10",
            words,
            ratio.median <= 1.1,
            asdict(found),
        ),
        Promise(f"longest block of the loop, {name}", "<= 5 ms", held, is_kept),
    ]


async def measure_all(directory: Path, raw: RawClient, pairs: int, creates: int) -> list[Promise]:
    """Every promise."""
    ours, floor = await measure.json_calls(directory, raw, pairs)
    promises = [overhead("JSON form / raw client in C", 3.0, ours, floor)]
    ours, floor = await measure.grpc_calls(directory, pairs)
    promises.append(overhead("gRPC form / plain grpc.aio", 1.2, ours, floor))
    for form in Form:
        name = f"{form.name} form"
        promises += crowd(name, await measure.crowded_creates(directory, form, creates))
    return promises


def main() -> int:
    """Exit status: 1 when a promise is not kept, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--creates", type=int, default=15)
    args = parser.parse_args()

    def run() -> int:
        with (
            sandboxer() as directory,
            RawClient(directory / "json" / "admin.sock") as raw,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            promises = runner.run(measure_all(directory, raw, args.pairs, args.creates))
        show(promises)
        is_kept = all(one.is_kept for one in promises)
        if args.json:
            machine = msgspec.to_builtins(describe_machine("", commit=read_commit()))
            rows = [asdict(one) for one in promises]
            print(json.dumps({"is_kept": is_kept, "machine": machine, "promises": rows}))
        return 0 if is_kept else 1

    return run_target(run, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
