"""Prove the comparison on this machine: it finds what was planted, and nothing where nothing is.

A copy of this checkout gets a slow-down of 15 % in the reader of the journal: that series, no
other, must be worse. Then this checkout is compared with itself, 20 times: nothing may be better or
worse. Were the chance of a false alarm 1 %, one in 20 would still be seen in 18 of 100 proofs: so a
single one is told, two fail.

Exit status 1 when it is not proved. It takes about half an hour. The samples of the planted
comparison, and of each that raised an alarm, are in build/compare/proof.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentd.cli.tables import print_table
from bench.bundle import BundleWriter
from bench.compare.__main__ import INTO, ROUNDS, compare, keep
from bench.compare.builds import HERE, Build, checked
from bench.compare.result import Comparison, missing, verdict_table
from bench.compare.rounds import Side, Sides
from bench.compare.verdict import Judged, Verdict
from bench.machine import ROOT
from bench.target import run_target

# Those that start fast: most of a run is the start of pytest.
SUITES = ("journal", "messages")
PLANTED = "messages.the_journal_is_read"
COMPARISONS = 20
# Enough for a clear change among the series of SUITES; a false alarm needs as clear a one.
CALM_ROUNDS = 10
_SLOW_DOWN = """

from time import perf_counter as _clock

_decode_lines = decode_lines


def decode_lines(*args, **named):
    begun_s = _clock()
    try:
        return _decode_lines(*args, **named)
    finally:
        end_s = _clock() + 0.15 * (_clock() - begun_s)
        while _clock() < end_s:
            pass
"""


@contextmanager
def planted(into: Path) -> Iterator[Build]:
    """This checkout's code, slower; removed in the end."""
    tree = into / "planted"
    shutil.rmtree(tree, ignore_errors=True)
    try:
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("agentd", "controlplane", "bench", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=ignore)
        with (tree / "agentd" / "engine" / "journal.py").open("a") as code:
            code.write(_SLOW_DOWN)
        yield checked(Build("planted", tree, Path(sys.executable)))
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def judge_planted(judged: Sequence[Judged]) -> list[str]:
    """What is wrong with the verdicts on the slower build."""
    verdicts = {one.name: one.verdict for one in judged}
    found = verdicts.pop(PLANTED, None)
    wrong = [] if found is Verdict.WORSE else [f"{PLANTED} is not worse: {found}"]
    others = [name for name, verdict in verdicts.items() if verdict is Verdict.WORSE]
    return wrong + [f"{name} is worse, where nothing was planted" for name in others]


def alarms(judged: Sequence[Judged]) -> list[str]:
    """The series of equal builds that are called different."""
    return [one.name for one in judged if one.verdict in (Verdict.BETTER, Verdict.WORSE)]


def run(comparisons: int, rounds: int, as_json: bool) -> int:
    """Both halves; each comparison is told when it is done."""
    INTO.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(INTO / "proof", ignore_errors=True)
    here = checked(Build(HERE, ROOT, Path(sys.executable)))
    wrong = _find_planted(here, rounds)
    alarmed = [found for number in range(comparisons) if (found := _stay_calm(here, number + 1))]
    if len(alarmed) > 1:
        wrong.append(f"{len(alarmed)} of {comparisons} comparisons of equal builds raised an alarm")
    for line in wrong or ["proved"]:
        print(line)
    if as_json:
        said = {"comparisons": comparisons, "false_alarms": alarmed, "wrong": wrong}
        print(json.dumps(said))
    return 1 if wrong else 0


def _find_planted(here: Build, rounds: int) -> list[str]:
    with planted(INTO) as slower:
        found = compare(_sides(here, slower), rounds, random.randrange(2**32), SUITES)
    _keep(found, "planted")
    print_table(verdict_table(found.judged))
    wrong = [*judge_planted(found.judged), *missing(found.sides)]
    print(f"15 % planted, {rounds} rounds, steal {found.steal:.1%}: {wrong or 'found'}", flush=True)
    return wrong


def _stay_calm(here: Build, number: int) -> list[str]:
    found = compare(_sides(here, here), CALM_ROUNDS, random.randrange(2**32), SUITES)
    alarmed = alarms(found.judged)
    if alarmed:
        _keep(found, f"equal-{number}")
    smallest = min(one.p for one in found.judged)
    print(
        f"equal builds, comparison {number}: {', '.join(alarmed) or 'no alarm'}, smallest p "
        f"{smallest:.2g}, steal {found.steal:.1%}", flush=True,
    )  # fmt: skip
    return alarmed


def _keep(found: Comparison, name: str) -> None:
    with BundleWriter(INTO / "proof" / name, shlex.join(sys.orig_argv)) as bundle:
        keep(bundle, found)


def _sides(base: Build, head: Build) -> Sides:
    return Side("base", base, INTO / "proof.base.log"), Side("head", head, INTO / "proof.head.log")


def main() -> int:
    """Exit status 1 when it is not proved."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comparisons", type=int, default=COMPARISONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the planted comparison")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    args = parser.parse_args()
    return run_target(lambda: run(args.comparisons, args.rounds, args.json), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
