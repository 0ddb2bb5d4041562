"""Count the instructions of each series under callgrind; compare with the budget file.

    python -m bench.instructions
    python -m bench.instructions --series lookup.hash --accept   # what is counted is the budget

Exit status 3 when a series is over its budget by more than the margin. Needs valgrind.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from agentd.cli.tables import Table, print_table
from agentd.errors import ErrorCode, UsageError
from bench.instructions.budget import Budget, Judged, Verdict, judge, read_budget, write_budget
from bench.instructions.count import count_all
from bench.instructions.series import SERIES
from bench.target import run_target

BUDGET = Path(__file__).with_name("budget.toml")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
EXIT_OVER = 3


def run(names: list[str], is_accepted: bool, as_json: bool) -> int:
    """Count, judge, tell."""
    budget = read_budget(BUDGET)
    if budget.python != PYTHON and not is_accepted:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"the budgets are of Python {budget.python}, this is {PYTHON}: it takes other counts",
            hint=f"run it by Python {budget.python}, or write budgets for this one: --accept",
        )
    print(f"counting {len(names)} series under callgrind, minutes", file=sys.stderr, flush=True)
    judged = judge(count_all(names), budget)
    print_table(budget_table(judged))
    if is_accepted:
        _accept(budget, judged)
    over = [one.name for one in judged if one.verdict is Verdict.OVER]
    status = EXIT_OVER if over and not is_accepted else 0
    if as_json:
        print(json.dumps(as_builtins(judged, budget) | {"over": over, "exit_status": status}))
    return status


def _accept(budget: Budget, judged: list[Judged]) -> None:
    """Budgets of series that were not counted now stay, if they are of this Python."""
    kept = budget.series if budget.python == PYTHON else {}
    counted = {one.name: one for one in judged}
    all_of_them = [
        counted.get(name) or Judged(name, kept[name], kept[name], Verdict.WITHIN)
        for name in SERIES
        if name in counted or name in kept
    ]
    write_budget(BUDGET, PYTHON, budget.margin, all_of_them)


def budget_table(judged: list[Judged]) -> Table:
    """One line a series."""
    columns = ["SERIES", "INSTRUCTIONS", "BUDGET", "DIFFERENCE", "VERDICT"]
    rows = [
        [
            one.name, f"{one.instructions:,}", f"{one.budget:,}" if one.budget else "-",
            f"{one.instructions / one.budget - 1:+.2%}" if one.budget else "-", one.verdict.value,
        ]
        for one in judged
    ]  # fmt: skip
    return Table(columns, rows, numeric=frozenset(columns[1:-1]))


def as_builtins(judged: list[Judged], budget: Budget) -> dict[str, Any]:
    """For programs."""
    series = [
        {
            "name": one.name, "instructions": one.instructions, "budget": one.budget,
            "verdict": one.verdict.value,
        }
        for one in judged
    ]  # fmt: skip
    return {"python": PYTHON, "margin": budget.margin, "series": series}


def main() -> int:
    """Exit status: 0, EXIT_OVER, else an error's own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", nargs="*", choices=list(SERIES), default=list(SERIES))
    parser.add_argument("--accept", action="store_true", help="write what is counted as the budget")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    args = parser.parse_args()
    return run_target(lambda: run(args.series, args.accept, args.json), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
