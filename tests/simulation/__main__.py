"""Run the simulation: `make simulate SEEDS=10000`, or one seed again: `make simulate SEED=31`.

Node agents work with a driver that is a model: nothing is booted or snapshotted here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .planted import PLANTED
from .run import Outcome, run_seed
from .search import Found, Tally, find_planted, run_seeds

_DRIVER: Final = "a model: nothing is booted or snapshotted"
_TAIL: Final = 60
_MOST_SHOWN: Final = 5
_TOLD_EVERY: Final = 500


def main() -> int:
    """Returns: 0 if nothing was violated and every planted defect was found."""
    _fix_hashing()
    options = _parse()
    if options.seed is not None:
        return _replay(options.seed, options.json)
    started_s = time.monotonic()
    err = Console(stderr=True)
    err.print(f"The nodes' driver is {_DRIVER}.")
    with Progress(console=err) as progress:
        tally = _run_all(progress, options)
        found = _find_all(progress, options) if options.planted or options.quick else []
    report = _report(tally, found, time.monotonic() - started_s)
    for outcome in tally.failing[:_MOST_SHOWN]:
        _show(err, outcome)
    if options.json:
        print(json.dumps(report))
    else:
        _print_table(report, found)
    return 1 if tally.failing or any(one.seed is None for one in found) else 0


def _fix_hashing() -> None:
    """Sets of names are walked in the order of their hashes, which must not be by chance."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, environment)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one, with its trace")
    parser.add_argument("--planted", action="store_true", help="look for planted defects too")
    parser.add_argument(
        "--quick", action="store_true", help="the same, first with the seeds of last time"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser.parse_args()


def _run_all(progress: Progress, options: argparse.Namespace) -> Tally:
    tally = Tally()
    bar = progress.add_task("seeds", total=options.seeds)
    for outcome in run_seeds(
        range(options.first, options.first + options.seeds), options.processes
    ):
        tally.add(outcome)
        about = f"seeds, {len(tally.failing)} failing"
        progress.update(bar, advance=1, description=about)
        if not progress.console.is_terminal and tally.seeds % _TOLD_EVERY == 0:
            progress.console.print(f"{tally.seeds} of {options.seeds} {about}", highlight=False)
    return tally


def _find_all(progress: Progress, options: argparse.Namespace) -> list[Found]:
    bar = progress.add_task("planted defects", total=len(PLANTED))
    found = []
    for one in find_planted(options.processes, is_quick=options.quick):
        found.append(one)
        hits = sum(other.seed is not None for other in found)
        progress.update(bar, advance=1, description=f"planted defects, {hits} found")
    order = [one.number for one in PLANTED]
    return sorted(found, key=lambda one: order.index(one.number))


def _report(tally: Tally, found: list[Found], took_s: float) -> dict[str, Any]:
    report: dict[str, Any] = {
        "seeds": tally.seeds,
        "steps": tally.steps,
        "faults": tally.faults,
        "simulated_hours": round(tally.hours),
        "restored_sessions": tally.restored,
        "violations": sum(len(one.violations) for one in tally.failing),
        "failing_seeds": sorted(one.seed for one in tally.failing),
        "driver": _DRIVER,
        "took_s": round(took_s, 1),
    }
    if found:
        hits = [one for one in found if one.seed is not None]
        report["planted_found"] = f"{len(hits)} of {len(found)}"
        report["planted"] = {one.number: one.seed for one in found}
    return report


def _print_table(report: dict[str, Any], found: list[Found]) -> None:
    console = Console()
    table = Table("", "", show_header=False)
    for name, value in report.items():
        if name != "planted":
            table.add_row(name, str(value))
    console.print(table)
    if not found:
        return
    table = Table("defect", "what was planted", "seed", "what was violated")
    for one in found:
        seed = "not found" if one.seed is None else str(one.seed)
        table.add_row(one.number, one.what, seed, one.violation[:100])
    console.print(table)


def _replay(seed: int, as_json: bool) -> int:
    outcome = run_seed(seed)
    if as_json:
        violations = [str(one) for one in outcome.violations]
        print(json.dumps({"seed": seed, "digest": outcome.digest, "violations": violations}))
    else:
        _show(Console(), outcome, tail=len(outcome.tail))
    return 1 if outcome.violations else 0


def _show(console: Console, outcome: Outcome, tail: int = _TAIL) -> None:
    for line in outcome.tail[-tail:]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    words = "; ".join(str(one) for one in outcome.violations) or "nothing violated"
    console.print(
        f"seed {outcome.seed}: {words}\n  {outcome.steps} steps, {outcome.digest:08x}; again: "
        f"python -m tests.simulation --seed {outcome.seed}",
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
