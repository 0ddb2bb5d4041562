"""Torture the page server: `make torture SEED=7 DEATHS=1000`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from .programs import BUILD_DIR, build_programs
from .run import RunOrder, run_torture
from .tally import Tally, has_failed, table_of

_TOLD_EVERY: Final = 50
_MOST_SHOWN: Final = 10


def main() -> int:
    """Returns: 0 if no byte was wrong, no machine lost, nothing left."""
    options = _parse()
    _raise_limit()
    err = Console(stderr=True)
    order = RunOrder(
        seed=options.seed,
        deaths=options.deaths,
        machines=options.machines,
        plant=os.environ.get("SNAP_PAGER_PLANT", ""),
    )
    programs = build_programs(options.programs)
    err.print(f"seed {order.seed}: {order.machines} machines, {order.deaths} deaths")
    tally = asyncio.run(run_torture(programs, order, lambda tally: _tell(err, tally)))
    report = tally.report()
    for problem in (tally.broken + tally.lost + tally.leaks)[:_MOST_SHOWN]:
        err.print(problem, markup=False)
    if tally.logs:
        err.print(f"logs: {tally.logs}")
    print(json.dumps(report)) if options.json else Console().print(table_of(report))
    return 1 if has_failed(report) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--deaths", type=int, default=1000, help="of the page server")
    parser.add_argument("--machines", type=int, default=32, help="at any time")
    parser.add_argument("--programs", type=Path, default=BUILD_DIR, help="where they are built")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser.parse_args()


def _raise_limit() -> None:
    """The keeper has two descriptors for each machine."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tell(err: Console, tally: Tally) -> None:
    if tally.deaths.total() % _TOLD_EVERY == 0:
        err.print(
            f"{tally.deaths.total()} deaths, {tally.lives} machines, {tally.touches} touches, "
            f"{tally.wrong_bytes} bytes wrong, {len(tally.lost)} lost"
        )


if __name__ == "__main__":
    sys.exit(main())
