"""Show the whole thing: image, cold start, template, forks, identity, memory, a report.

make demo            a table, then build/demo/report.html
make demo JSON=1     and one JSON object as the last line
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from agentd.cli.demo import MEMORY_MIB, TEMPLATE, Plan, run_demo
from agentd.cli.report import render_report
from agentd.cli.report_table import compare_starts, facts_table
from agentd.cli.tables import new_console, print_table
from agentd.image import Image
from agentd.wire.demo import DemoResult, Sample
from bench.bare_fork import NUMPY_REQUEST, BareTemplate
from bench.machine import ROOT, read_commit
from bench.target import run_target

__all__ = ["IMAGES", "MEMORY_MIB", "TEMPLATE"]

OUTPUT = ROOT / "build" / "demo"
IMAGES = ROOT / "build" / "images"
# Errors go to the same place as progress: standard output is the result's alone.
console = new_console(sys.stderr)


@contextmanager
def bare_forks(image: Image, accel: str) -> Iterator[Callable[[], Sample]]:
    """Takes samples of the bare sequence, from a template of its own."""
    with BareTemplate(image.directory, qemu="qemu-system-x86_64", accel=accel) as bare:

        def take() -> Sample:
            machine, sample = bare.fork(NUMPY_REQUEST)
            machine.kill()
            return Sample(ms=sample.total_ms, started_at=sample.started_at)

        yield take


def publish(result: DemoResult) -> Path:
    """Write the page with its raw samples; returns the page."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "samples.json").write_bytes(msgspec.json.encode(result))
    page = OUTPUT / "report.html"
    page.write_text(render_report(result), encoding="utf-8")
    return page


def show(result: DemoResult, page: Path) -> None:
    """The tables for people."""
    print_table(compare_starts(result))
    print_table(facts_table(result))
    print(f"report: {page.relative_to(ROOT)}")


def main() -> int:
    """Exit status: 0, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--forks", type=int, default=20)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--cold", type=int, default=3)
    args = parser.parse_args()
    plan = Plan(
        IMAGES, args.cold, args.forks, args.together, commands=["make demo"], commit=read_commit()
    )

    def run() -> int:
        result = run_demo(plan, console, beside=bare_forks)
        show(result, publish(result))
        if args.json:
            print(msgspec.json.encode(result).decode())
        return 0

    return run_target(run, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
