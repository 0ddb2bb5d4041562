"""Write a flame graph of a series: of one of bench/suites, or of agentd while it forks or executes.

python -m bench.profile fork-loop                   agentd while it starts and ends sessions
python -m bench.profile execute-loop --with perf    agentd while a session runs code
python -m bench.profile journal                     bench/suites/test_journal.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agentd.cli.demo import build_with_progress, step
from agentd.cli.tables import new_console
from agentd.errors import ErrorCode, UsageError
from bench.demo import IMAGES, MEMORY_MIB, TEMPLATE
from bench.machine import ROOT
from bench.node import Node
from bench.profile.recorder import TOOLS, Recorder
from bench.target import run_target

OUTPUT = ROOT / "build" / "profile"
SUITES = ROOT / "bench" / "suites"
console = new_console(sys.stderr)
_SETTLE_S = 1.0  # py-spy reads the program's symbols before its first sample

Loop = Callable[[Node, float], int]


def fork_loop(node: Node, seconds: float) -> int:
    """Start a session, end it, again; returns how many."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        node.create(TEMPLATE).kill()
        count += 1
    return count


def execute_loop(node: Node, seconds: float) -> int:
    """Run one line of code in one session, again; returns how many."""
    with node.create(TEMPLATE) as sandbox:
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            sandbox.run_code("1 + 1")
            count += 1
    return count


LOOPS: dict[str, Loop] = {"fork-loop": fork_loop, "execute-loop": execute_loop}


def series() -> list[str]:
    """All names that can be given."""
    return [*LOOPS, *sorted(path.stem.removeprefix("test_") for path in SUITES.glob("test_*.py"))]


def profile_loop(name: str, recorder: Recorder, seconds: float) -> str:
    """Record a private node's daemon; returns what was done in words."""
    image = build_with_progress(IMAGES)
    with Node(IMAGES, MACHINES__MEMORY_MIB=str(MEMORY_MIB)) as node:
        with step(console, "template"):
            node.build_template(TEMPLATE, str(image.directory), memory_mib=MEMORY_MIB)
        node.create(TEMPLATE).kill()  # reads the template into memory
        with step(console, name), recorder.attached(node.pid, f"agentd, {name}"):
            time.sleep(_SETTLE_S)
            return f"{LOOPS[name](node, seconds)} rounds of {name}"


def profile_suite(name: str, recorder: Recorder) -> str:
    """Record a suite with its fixtures; returns what was done in words."""
    recorder.command([sys.executable, "-m", "bench.suites", "--only", name])
    return f"suite {name}"


def profile(name: str, tool: str, seconds: float) -> tuple[Path, str]:
    """The graph's file, with what was done. Raises: UsageError, ConfigError, PeerError."""
    if name not in series():
        what, hint = f"profiling {name!r}: there is no such series", f"one of {', '.join(series())}"
        raise UsageError(ErrorCode.REQUEST_INVALID, what, hint=hint)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    graph = OUTPUT / f"{name}-{tool}.svg"
    graph.unlink(missing_ok=True)
    recorder = Recorder(tool, graph)
    done = profile_loop(name, recorder, seconds) if name in LOOPS else profile_suite(name, recorder)
    return graph, done


def main() -> int:
    """Exit status: 0, or that of the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("series", help="fork-loop, execute-loop, or the name of a suite")
    parser.add_argument("--with", dest="tool", choices=TOOLS, default="py-spy")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a loop")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    args = parser.parse_args()

    def run() -> int:
        graph, done = profile(args.series, args.tool, args.seconds)
        if args.json:
            found = {"series": args.series, "tool": args.tool, "graph": str(graph), "done": done}
            print(json.dumps(found))
        else:
            print(f"{done}: wrote {graph}")
        return 0

    return run_target(run, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
