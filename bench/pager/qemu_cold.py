"""What does a disk cost the first fork of a template that is not in memory yet?

python -m bench.pager.qemu_cold            the promise, with what surrounds it
python -m bench.pager.qemu_cold --json     and one JSON object with every sample as the last line
python -m bench.pager.qemu_cold --directory DIR   with the file on another disk

Real guests in QEMU, forked from a template whose memory is in a file on a disk. Every way in turn
in each round:

mapped-warm   the fork maps the file, all of which is in the page cache
mapped-cold   the fork maps the file, nothing of which is: the kernel reads what a fault asks for
load-warm     the file is loaded into sealed memory first, every byte verified, from the page cache
load-plain    likewise from the disk, by the kernel's own read-ahead
load-ahead    likewise, asked for in one go: what agentd does for the first fork after its start
loaded        the memory is loaded already: what agentd does for every other fork

How long a fork waits for the disk is the time in which a thread of it stood still for one, as the
kernel counts it for a control group (Documentation/accounting/psi.rst): where the guest's
instructions are emulated, most of a whole fork is that. How long a load does is what it takes
beyond one from the page cache.
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
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from agentd.cli.demo import build_with_progress
from agentd.cli.demo_machine import describe_machine
from agentd.errors import ErrorCode, InvariantError, UsageError
from bench.demo import IMAGES
from bench.machine import read_commit
from bench.pager.judge import spread
from bench.pager.programs import BUILD
from bench.pager.qemu_forks import WAYS, Forks, measure
from bench.promises import Promise, show
from bench.target import run_target

LIMIT: Final = 0.15


def judge(found: Forks) -> list[Promise]:
    """The promise, then what is told for its sake."""
    stalls = {way: [one.stalled_ms for one in found[way]] for way in WAYS}
    plain, warm = (statistics.median(stalls[way]) for way in ("mapped-cold", "mapped-warm"))
    if plain <= warm:
        raise InvariantError("a fork of a file that is not in memory waited for no disk")
    ratio = statistics.median(stalls["loaded"]) / plain
    words = f"{ratio:.2f}; {spread(stalls['loaded']).words(1)}"
    waits = Promise(
        "a fork's wait for the disk, loaded / mapped",
        f"<= {LIMIT}",
        f"{words} / {spread(stalls['mapped-cold']).words(1)} ms",
        ratio <= LIMIT,
        {way: [asdict(one) for one in found[way]] for way in WAYS},
    )
    return [waits, *_loads(found), *_whole_forks(found)]


def _loads(found: Forks) -> Iterator[Promise]:
    for way in ("load-warm", "load-plain", "load-ahead"):
        words = f"{spread([one.prepared_ms for one in found[way]]).words(0)} ms"
        yield _told(f"load alone, {way.removeprefix('load-')}", words)


def _whole_forks(found: Forks) -> Iterator[Promise]:
    for way in WAYS:
        words = f"{spread([one.total_ms for one in found[way]]).words(0)} ms"
        yield _told(f"whole fork, {way}", words)


def _told(name: str, words: str) -> Promise:
    return Promise(name, "reported", words, True)


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
    parser.add_argument("--directory", type=Path, default=BUILD, help="on the disk to be measured")
    args = parser.parse_args()

    def run() -> int:
        if args.rounds < 1:
            raise UsageError(ErrorCode.REQUEST_INVALID, "--rounds must be positive")
        image = build_with_progress(IMAGES)
        say = partial(print, file=sys.stderr)
        found = measure(image.directory, args.directory, args.rounds, say)
        promises = judge(found)
        disk = {"read_ahead_kib": device_read_ahead_kib(args.directory)}
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
