"""Measure the page server: faults, prefetch, time to the working set, memory, its own restart.

python -m bench.pager            the table of promises; exit status 1 when one is not kept
python -m bench.pager --json     and one JSON object with every sample as the last line
python -m bench.pager --svg PATH where the plot goes (build/bench-pager/time-to-working-set.svg)
python -m bench.pager --quick    few rounds: does it work, not how fast is it

The machine is a stand-in: a process that maps memory, hands over a userfaultfd and touches pages.
A guest of KVM adds its exits to every way alike. "memfd hand-over" is the page server's own
protocol, which no monitor speaks yet. Whoever measures wants an idle machine, and root.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agentd.cli.demo_machine import describe_machine
from agentd.errors import ConfigError, ErrorCode, UsageError
from bench.machine import read_commit
from bench.pager.judge import judge, mean_total_ms
from bench.pager.lasting import IDLE_MACHINES, Idle, measure_idle
from bench.pager.measure import Found, measure_round
from bench.pager.plot import Panel, Row, draw
from bench.pager.prepare import Setting, prepare
from bench.pager.programs import BUILD, build_programs
from bench.pager.service import Service
from bench.pager.stand import Stand
from bench.pager.ways import Contender, cold_crowds, cold_ways, warm_crowds, warm_ways, whole_ways
from bench.promises import Promise, show
from bench.target import run_target


@dataclass
class Everything:
    """What a run found."""

    found: Found
    idle: Idle
    reports: dict[str, Any] = field(default_factory=dict)
    panels: list[Panel] = field(default_factory=list)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def measure_all(rounds: int, idle_machines: int) -> Everything:
    """Every sample, from machines on one page server."""
    say("building the programs")
    build_programs()
    with (
        tempfile.TemporaryDirectory(prefix="run-", dir=BUILD) as directory,
        Service() as service,
    ):
        stand = Stand(service)
        say("writing images, recording working sets")
        with prepare(stand, Path(directory)) as setting:
            say(f"{idle_machines} idle machines")
            result = Everything(Found(), measure_idle(stand, setting, idle_machines))
            for number in range(rounds):
                say(f"round {number + 1} of {rounds}")
                measure_round(stand, setting, number, result.found)
            result.reports = {f"{share:.0%}": one.report for share, one in setting.sets.items()}
            result.panels = panels(setting, result.found)
            return result


def panels(setting: Setting, found: Found) -> list[Panel]:
    """The plot's: one clone warm, one cold, eight of both."""
    whole = whole_ways(setting)
    return [
        _panel("One machine, page cache warm", [*warm_ways(setting), *whole[:3]], found),
        _panel("One machine, page cache cold", cold_ways(setting), found),
        _panel(
            "Eight machines at once, warm: mean of each", [*warm_crowds(setting), *whole[3:]], found
        ),
        _panel("Eight machines at once, cold: mean of each", cold_crowds(setting), found),
    ]


def _panel(title: str, contenders: Sequence[Contender], found: Found) -> Panel:
    rows = [
        Row(one.label, _colour(one), mean_total_ms(found.rounds[one.key]))
        for one in contenders
        if one.way.server not in ("bulk", "runs")  # not ways to a working set
    ]
    return Panel(title, rows)


def _colour(one: Contender) -> str:
    return {"": "kernel", "ours": "ours"}.get(one.way.server, "raw")


def samples(result: Everything) -> dict[str, Any]:
    """Every raw sample."""
    rounds = {
        key: [[asdict(clone) for clone in clones] for clones in of_way]
        for key, of_way in result.found.rounds.items()
    }
    found = result.found
    steal = {"set_aside": found.set_aside, "disturbed": found.disturbed}
    return {
        "rounds": rounds,
        "faults_us": found.faults,
        "working_sets": result.reports,
        "host_took_time": steal,
    }


def show_machine(machine: dict[str, Any], rounds: int, found: Found) -> None:
    """What the figures come from."""
    words = f"{machine['cpu']}, {machine['cores']} processors, kernel {machine['kernel']}"
    print(f"{words}, virtual: {machine['virtualized']}, commit {machine['commit']}")
    print(f"{rounds} rounds, every way in turn in each; median (lowest..highest) of the rounds")
    print(
        f"{found.set_aside} samples set aside and taken again because the host took processor time "
        f"meanwhile; {found.disturbed} kept in spite of it\n"
    )


def check_host() -> None:
    """Only root can do it. Raises: ConfigError."""
    if os.geteuid() != 0:
        raise ConfigError(
            ErrorCode.PERMISSION_DENIED,
            "starting the page server: it takes userfaultfds out of other processes",
            hint="run as root",
        )


def main() -> int:
    """Exit status: 1 when a promise is not kept, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--svg", type=Path, default=BUILD / "time-to-working-set.svg")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="3 rounds, 16 idle machines")
    args = parser.parse_args()

    def run() -> int:
        rounds, idle_machines = (3, 16) if args.quick else (args.rounds, IDLE_MACHINES)
        if rounds < 1:
            raise UsageError(ErrorCode.REQUEST_INVALID, "--rounds must be positive")
        check_host()
        result = measure_all(rounds, idle_machines)
        machine = msgspec.to_builtins(describe_machine("", commit=read_commit()))
        promises = judge(result.found, result.idle)
        show_machine(machine, rounds, result.found)
        show(promises)
        args.svg.write_text(draw("Time to a working set of 8,000 pages", result.panels))
        print(f"plot: {args.svg}", file=sys.stderr)
        is_kept = all(one.is_kept for one in promises)
        if args.json:
            print(json.dumps(_as_json(is_kept, machine, promises, result)))
        return 0 if is_kept else 1

    return run_target(run, as_json=args.json)


def _as_json(
    is_kept: bool, machine: dict[str, Any], promises: Sequence[Promise], result: Everything
) -> dict[str, Any]:
    rows = [asdict(one) for one in promises]
    return {"is_kept": is_kept, "machine": machine, "promises": rows, "samples": samples(result)}


if __name__ == "__main__":
    sys.exit(main())
