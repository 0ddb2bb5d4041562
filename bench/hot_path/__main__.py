"""Measure what agentd itself costs, on real machines.

python -m bench.hot_path                     all of it, about six minutes
python -m bench.hot_path --only cpu --json   one part; one JSON object as the last line
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property

import msgspec

from agentd.cli.demo import build_with_progress, step
from agentd.cli.demo_machine import describe_machine
from agentd.cli.tables import new_console
from agentd.client.calls import status
from agentd.errors import ErrorCode, UsageError
from agentd.image import Image
from bench.bare_fork import BareTemplate
from bench.demo import IMAGES, MEMORY_MIB, TEMPLATE
from bench.hot_path import fan_out, overload, pieces, processor
from bench.machine import read_commit
from bench.node import Node
from bench.promises import Promise, show
from bench.target import run_target

console = new_console(sys.stderr)


@dataclass
class Stand:
    """What the parts measure on, made when the first of them asks. owned: released with it."""

    owned: ExitStack

    @cached_property
    def image(self) -> Image:
        """Of the guest."""
        return build_with_progress(IMAGES)

    @cached_property
    def node(self) -> Node:
        """With a template."""
        directory = str(self.image.directory)
        node = self.owned.enter_context(Node(IMAGES, MACHINES__MEMORY_MIB=str(MEMORY_MIB)))
        with step(console, "template"):
            node.build_template(TEMPLATE, directory, memory_mib=MEMORY_MIB)
        return node

    @cached_property
    def bare(self) -> BareTemplate:
        """The same without agentd."""
        accel = self.node.send(status()).accel
        template = BareTemplate(self.image.directory, qemu="qemu-system-x86_64", accel=accel)
        with step(console, "bare template"):
            return self.owned.enter_context(template)

    @property
    def monitor_version(self) -> str:
        """Empty when no part needed a machine."""
        return self.node.send(status()).engine_version if "node" in self.__dict__ else ""


Part = Callable[[Stand, argparse.Namespace], list[Promise]]
PARTS: dict[str, Part] = {
    "pieces": lambda stand, args: pieces.measure(),
    "cpu": lambda stand, args: [processor.per_fork(stand.node, args.forks)],
    "fan-out": lambda stand, args: [
        fan_out.measure(stand.node, stand.bare, args.together, args.rounds)
    ],
    "overload": lambda stand, args: overload.measure(stand.node, args.overload_s),
    "idle": lambda stand, args: processor.at_rest(stand.node, args.idle_s),
}


def measure(args: argparse.Namespace) -> tuple[list[Promise], str]:
    """The wanted parts, on one node; with the monitor's version."""
    promises = []
    with ExitStack() as owned:
        stand = Stand(owned)
        for name in args.only or PARTS:
            promises += PARTS[name](stand, args)
            console.print(f"done {name}")
        return promises, stand.monitor_version


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--only", action="append", choices=PARTS, help="repeatable")
    parser.add_argument("--forks", type=int, default=30, help="one by one, for cpu")
    parser.add_argument("--together", type=int, default=32, help="forks of one fan-out")
    parser.add_argument("--rounds", type=int, default=3, help="fan-outs of each kind")
    parser.add_argument("--overload-s", type=float, default=20.0)
    parser.add_argument("--idle-s", type=float, default=60.0)
    return parser.parse_args(argv)


def main() -> int:
    """Exit status: 1 when a limit is not kept, or that of the error."""
    args = parse()

    def run() -> int:
        if min(args.forks, args.together, args.rounds, args.overload_s, args.idle_s) <= 0:
            raise UsageError(ErrorCode.REQUEST_INVALID, "counts and seconds must be positive")
        promises, version = measure(args)
        show(promises)
        is_kept = all(one.is_kept for one in promises)
        if args.json:
            machine = msgspec.to_builtins(describe_machine(version, commit=read_commit()))
            rows = [asdict(one) for one in promises]
            print(json.dumps({"is_kept": is_kept, "machine": machine, "promises": rows}))
        return 0 if is_kept else 1

    return run_target(run, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
