"""Does reading ahead spare a fork of a mapped file its wait for the disk?

python -m bench.pager.qemu_cold            the promise, with what surrounds it
python -m bench.pager.qemu_cold --json     and one JSON object with every sample as the last line

Real guests in QEMU, forked from a template in a file. The file is on a disk, and each fork but a
warm one begins with nothing of it in the page cache. Every way in turn in each round:

warm    all of the file is in the page cache
plain   the kernel reads what a fault asks for, with its own read-ahead
ahead   what earlier forks touched is asked for in one go while the monitor starts
load    all of it is copied into sealed memory first, every byte verified: what agentd does today

What is compared is the time in which a thread of the fork stood still for the disk, as the kernel
counts it for a control group (Documentation/accounting/psi.rst). A whole fork is no measure of it:
where the guest's instructions are emulated, most of it is that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import msgspec

from agentd.cli.demo import build_with_progress
from agentd.cli.demo_machine import describe_machine
from agentd.errors import ErrorCode, InvariantError, UsageError
from agentd.units import MIB, PAGE_BYTES
from bench.demo import IMAGES
from bench.machine import read_commit
from bench.pager.judge import spread
from bench.pager.programs import BUILD
from bench.pager.qemu_forks import WAYS, Found, Learned, measure
from bench.promises import Promise, show
from bench.target import run_target

LIMIT: Final = 0.15


def judge(found: Found) -> list[Promise]:
    """The promise, then what is told for its sake."""
    stalls = {way: [one.stalled_ms for one in found.forks[way]] for way in WAYS}
    plain = statistics.median(stalls["plain"])
    if plain <= statistics.median(stalls["warm"]):
        raise InvariantError("a fork of a file that is not in memory waited for no disk")
    ratio = statistics.median(stalls["ahead"]) / plain
    words = f"{ratio:.2f}; {spread(stalls['ahead']).words(1)} / {spread(stalls['plain']).words(1)}"
    words += f" ms, warm {spread(stalls['warm']).words(1)}"
    samples = {way: [asdict(one) for one in found.forks[way]] for way in WAYS}
    waits = Promise(
        "waiting for the disk, read ahead / plain",
        f"<= {LIMIT}",
        words,
        ratio <= LIMIT,
        samples,
    )
    return [waits, *_whole_forks(found), _told("pages read ahead", _learned(found.learned))]


def _whole_forks(found: Found) -> Iterator[Promise]:
    for way in WAYS:
        words = f"{spread([one.total_ms for one in found.forks[way]]).words(0)} ms"
        if way == "load":
            words += f", {spread([one.prepared_ms for one in found.forks[way]]).words(0)} to load"
        yield _told(f"whole fork, {way}", words)


def _told(name: str, words: str) -> Promise:
    return Promise(name, "reported", words, True)


def _learned(learned: Learned) -> str:
    runs = learned.read_ahead.runs
    pages = sum(run.pages for run in runs)
    words = f"{pages} ({pages * PAGE_BYTES / MIB:.0f} MiB) in {len(runs)} runs, "
    words += f"of {learned.read_ahead.forks} forks; one left out, recall {learned.recall:.3f}"
    return f"{words}, precision {learned.precision:.3f}"


def device_read_ahead_kib(path: Path) -> int | None:
    """What the kernel reads around a fault on this path's disk; None if it does not tell."""
    device = os.stat(path).st_dev
    name = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for queue in (f"{name}/queue", f"{name}/../queue"):  # a disk, a partition of one
        with contextlib.suppress(OSError):
            return int(Path(queue, "read_ahead_kb").read_text())
    return None


def main() -> int:
    """Exit status: 1 when the promise is not kept, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()

    def run() -> int:
        if args.rounds < 1:
            raise UsageError(ErrorCode.REQUEST_INVALID, "--rounds must be positive")
        image = build_with_progress(IMAGES)
        found = measure(image.directory, args.rounds, lambda text: print(text, file=sys.stderr))
        promises = judge(found)
        disk = {"read_ahead_kib": device_read_ahead_kib(BUILD)}
        print(f"the kernel's own read-ahead on this disk: {disk['read_ahead_kib']} KiB")
        show(promises)
        is_kept = all(one.is_kept for one in promises)
        if args.json:
            machine = msgspec.to_builtins(describe_machine("", commit=read_commit()))
            rows = [asdict(one) for one in promises]
            told = {"is_kept": is_kept, "machine": machine, "disk": disk, "promises": rows}
            print(json.dumps(told))
        return 0 if is_kept else 1

    return run_target(run, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
