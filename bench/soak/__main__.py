"""Use a node for a while; see that nothing of it grows: `make soak MINUTES=20`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys

from agentd.cli.tables import Table, new_console, print_table
from agentd.image import ImageSpec, build_image
from bench.demo import IMAGES
from bench.machine import ROOT, read_commit
from bench.soak.report import render
from bench.soak.run import Run, run_soak
from bench.soak.verdict import Verdict, has_failed, judge_run
from bench.target import run_target

OUTPUT = ROOT / "build" / "soak"
_TOLD_EVERY = 10


def main() -> int:
    """Returns: 0 if nothing failed, nothing grows."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    return run_target(lambda: _run(options), as_json=options.json)


def _run(options: argparse.Namespace) -> int:
    image = build_image(ImageSpec(), cache_dir=IMAGES)
    run = run_soak(image.directory, options.minutes, _tell)
    verdicts = judge_run(run)
    machine = f"{platform.machine()}, kernel {platform.release()}, commit {read_commit()}"
    OUTPUT.mkdir(parents=True, exist_ok=True)
    raw = {"run": dataclasses.asdict(run), "verdicts": [dataclasses.asdict(v) for v in verdicts]}
    (OUTPUT / "samples.json").write_text(json.dumps(raw))
    page = OUTPUT / "report.html"
    page.write_text(render(run, verdicts, machine), encoding="utf-8")
    print_table(_table(verdicts))
    for failure in run.failures:
        print(f"failed: {failure}")
    print(f"{len(run.samples)} rounds in {run.seconds / 60:.1f} minutes: {run.done}")
    print(f"report: {page.relative_to(ROOT)}")
    failed = has_failed(run, verdicts)
    if options.json:
        words = {one.quantity.name: one.word for one in verdicts}
        print(json.dumps({"failures": run.failures, "done": run.done, "verdicts": words}))
    return int(failed)


def _tell(run: Run) -> None:
    if len(run.samples) % _TOLD_EVERY == 0:
        text = f"{run.seconds / 60:.1f} min, {len(run.samples)} rounds, {len(run.failures)} failed"
        new_console(sys.stderr).print(text)


def _table(verdicts: list[Verdict]) -> Table:
    rows = [
        (
            one.quantity.name,
            f"{one.values[0]:.5g}",
            f"{one.values[-1]:.5g}",
            one.quantity.unit,
            f"{one.trend.growth:.3g}",
            "" if one.trend.p is None else f"{one.trend.p:.2g}",
            one.word,
        )
        for one in verdicts
    ]
    columns = ("QUANTITY", "FIRST", "LAST", "UNIT", "GROWTH", "P", "VERDICT")
    return Table(columns, rows, numeric=frozenset(("FIRST", "LAST", "GROWTH", "P")))


if __name__ == "__main__":
    sys.exit(main())
