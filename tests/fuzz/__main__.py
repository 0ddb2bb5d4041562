"""Fuzz the page server's parsers: `python -m tests.fuzz --cpu-minutes 10`.

Every target (tests/native/pager/fuzz_*.c) gets an equal share. An input that breaks one is left in
build/fuzz/NAME/found: fix the defect, then keep the input in tests/native/pager/corpus/NAME.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from agentd.errors import ErrorCode, UsageError
from bench.target import run_target

from .engine import Outcome, keep, run
from .targets import Target, all_targets, build, need_fuzzer

BUILD: Final = Path(__file__).parents[2] / "build" / "fuzz"


def main() -> int:
    """Returns: 0 if nothing broke, 1 if something did, or the status of what failed."""
    options = _parse()
    return run_target(lambda: _fuzz(options), as_json=options.json)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cpu-minutes", type=float, default=10.0, help="for all of them together")
    parser.add_argument("--target", action="append", help="only this one; may be given again")
    parser.add_argument(
        "--keep", action="store_true", help="add inputs that reach new code to the repository's"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser.parse_args()


def _fuzz(options: argparse.Namespace) -> int:
    targets = _choose(options.target)
    need_fuzzer()
    print("building the fuzz targets", file=sys.stderr)
    build(BUILD, with_fuzzer=True)
    share_s = options.cpu_minutes * 60 / len(targets)
    outcomes = [_fuzz_one(target, share_s, is_kept=options.keep) for target in targets]
    executions, found = (
        sum(one.executions for one in outcomes),
        sum(len(one.found) for one in outcomes),
    )
    cpu_s = sum(one.cpu_s for one in outcomes)
    print(
        f"{executions} executions in {cpu_s / 60:.1f} CPU minutes, {found} inputs broke something"
    )
    if options.json:
        print(
            json.dumps(
                {
                    "executions": executions,
                    "cpu_s": round(cpu_s, 1),
                    "found": found,
                    "targets": [asdict(one) for one in outcomes],
                }
            )
        )
    return 1 if found else 0


def _choose(names: list[str] | None) -> list[Target]:
    targets = {target.name: target for target in all_targets()}
    unknown = set(names or ()) - set(targets)
    if unknown:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"there is no fuzz target called {', '.join(sorted(unknown))}",
            hint=f"there are {', '.join(targets)}",
        )
    return [targets[name] for name in names or targets]


def _fuzz_one(target: Target, cpu_s: float, *, is_kept: bool) -> Outcome:
    work = BUILD / target.name
    outcome = run(target, BUILD, work, cpu_s)
    print(
        f"{target.name}: {outcome.executions} executions in {outcome.cpu_s:.0f} s of CPU time,"
        f" {outcome.edges} edges, {outcome.features} features, {outcome.corpus} inputs"
    )
    for path in outcome.found:
        print(f"{target.name}: broken by {path}; what it said is in {work / 'log'}")
    if is_kept:
        print(f"{target.name}: {keep(target, BUILD, work)} inputs added to {target.kept}")
    return outcome


if __name__ == "__main__":
    sys.exit(main())
