"""Compare two revisions on this machine, in turn, series by series.

    python -m bench.compare HEAD~1                     # against this checkout as it is
    python -m bench.compare v1 v2 --rounds 24 --suite journal
    python -m bench.compare . . --head-env MALLOC_ARENA_MAX=1   # two configurations
    python -m bench.compare v1 --form quick --suite agentd_cpu --rounds 10   # on real machines

Exit status 3 when a series is significantly worse by more than its threshold, which is in
bench/compare/thresholds.toml. All samples are in build/compare/bundle, builds beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from agentd.cli.tables import new_console, print_table
from bench.bundle import BundleWriter
from bench.compare.builds import HERE, make_build, remove_others
from bench.compare.result import (
    Comparison,
    as_json,
    missing,
    read_thresholds,
    samples_of,
    summary,
    verdict_table,
)
from bench.compare.rounds import Samples, Side, Sides, measure_suites, run_in_turn
from bench.compare.verdict import judge_all
from bench.machine import ROOT
from bench.steal import read_steal_ms, steal_share
from bench.suites.budget import Form
from bench.target import run_target

# In which a simulated shared machine shows a change of 15 % 19 times of 20.
ROUNDS = 16
INTO = ROOT / "build" / "compare"
BUNDLE = INTO / "bundle"
THRESHOLDS = Path(__file__).with_name("thresholds.toml")


def compare(
    sides: Sides, rounds: int, seed: int, suites: Sequence[str], form: str = ""
) -> Comparison:
    """Measure, judge; progress is on standard error."""
    begun_s, stolen_ms = time.monotonic(), read_steal_ms()

    def measure(sides: Sides, draw: random.Random) -> list[Samples]:
        return measure_suites(sides, draw, suites, form)

    with Progress(console=new_console(sys.stderr), transient=True) as progress:
        task = progress.add_task("rounds", total=rounds)
        run_in_turn(sides, rounds, seed, measure, lambda n: progress.update(task, completed=n))
    base, head = (side.rounds for side in sides)
    judged = judge_all(base, head, read_thresholds(THRESHOLDS, {*base, *head}))
    steal = steal_share(time.monotonic() - begun_s, read_steal_ms() - stolen_ms)
    return Comparison(sides, judged, rounds, seed, steal)


def make_sides(args: argparse.Namespace) -> Sides:
    """Build both."""
    base, head = (
        make_build(revision, dict(env), INTO)
        for revision, env in ((args.base, args.base_env), (args.head, args.head_env))
    )
    remove_others(INTO, {base.tree, head.tree})
    sides = Side("base", base, INTO / "base.log"), Side("head", head, INTO / "head.log")
    for side in sides:
        side.log.unlink(missing_ok=True)
    return sides


def run(args: argparse.Namespace) -> int:
    """Build, measure, judge, tell."""
    seed = random.randrange(2**32) if args.seed is None else args.seed
    INTO.mkdir(parents=True, exist_ok=True)
    sides = make_sides(args)
    with BundleWriter(BUNDLE, shlex.join(sys.orig_argv)) as bundle:
        found = compare(sides, args.rounds, seed, args.suite, args.form)
        keep(bundle, found)
    print_table(verdict_table(found.judged))
    for line in (*missing(found.sides), summary(found)):
        print(line)
    if args.json:
        print(json.dumps(as_json(found)))
    return found.exit_status


def keep(bundle: BundleWriter, found: Comparison) -> None:
    """Everything that another judgement of the same rounds needs."""
    bundle.add(*samples_of(found))
    bundle.add_file("evidence/comparison.json", json.dumps(as_json(found), indent=1))
    if missing(found.sides):
        for side in found.sides:
            bundle.add_file(f"logs/{side.name}.log", side.log.read_bytes())


def variable(text: str) -> tuple[str, str]:
    """NAME=VALUE. Raises: ArgumentTypeError."""
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main() -> int:
    """Exit status: 0, EXIT_WORSE, else an error's own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="a revision of git, or . for this checkout")
    parser.add_argument("head", nargs="?", default=HERE, help="likewise (default: this checkout)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--suite", action="append", default=[], help="only bench/suites/test_NAME")
    parser.add_argument(
        "--form", choices=list(Form), default="", help="also series on machines, with its rounds"
    )
    for side in ("base", "head"):
        parser.add_argument(
            f"--{side}-env", action="append", default=[], type=variable, metavar="NAME=VALUE"
        )
    parser.add_argument("--seed", type=int, help="of the lot that orders each round")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    args = parser.parse_args()
    return run_target(lambda: run(args), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
