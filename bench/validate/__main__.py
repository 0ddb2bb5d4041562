"""Run the validation plan on this machine; write a bundle that a program can verify.

make validate            quick form; tables, build/validate/
make validate FULL=1     as many samples as percentiles need
make validate JSON=1     and one JSON object as the last line
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from agentd.cli.demo import build_with_progress
from agentd.cli.tables import new_console, print_table
from agentd.errors import ErrorCode, UsageError
from agentd.image import Image
from bench.demo import IMAGES
from bench.target import run_target
from bench.validate.cluster_stage import open_cluster
from bench.validate.kuasar_stage import open_kuasar
from bench.validate.node_stage import open_node
from bench.validate.plan import SCENARIOS
from bench.validate.run import OpenStage, Outcome, Verdict, run_plan
from bench.validate.scenario import Scenario, Stage
from bench.validate.show import expected_table, scenario_table
from bench.validate.sizes import FULL, QUICK, Sizes

console = new_console(sys.stderr)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found. troubles: about the stages, such as what was left of them."""

    size: str
    passed: int
    outcomes: tuple[Outcome, ...]
    troubles: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0 if every scenario passed and nothing is left."""
        return int(self.passed < len(self.outcomes) or bool(self.troubles))


def main() -> int:
    """Exit status: 0, 1 when a scenario did not pass or something was left, or the error's."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.validate", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--full", action="store_true", help="as many samples as percentiles need")
    parser.add_argument(
        "--only", action="append", metavar="SCENARIO", help="by its name; repeatable"
    )
    args = parser.parse_args()
    # Being told to stop ends as Ctrl-C does: with nothing left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sizes = FULL if args.full else QUICK
    return run_target(lambda: _run(args.only or (), sizes, args.json), as_json=args.json)


def choose(names: Sequence[str]) -> list[Scenario]:
    """The scenarios of these names, all if there is none. Raises: UsageError."""
    known = {one.name: one for one in SCENARIOS}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"choosing scenarios: there is no {unknown[0]!r}",
            hint=f"it is one of: {', '.join(known)}",
        )
    return [one for one in SCENARIOS if not names or one.name in names]


def stages_of(image: Image, sizes: Sizes, say: Callable[[str], None]) -> Mapping[Stage, OpenStage]:
    """How each stage is set up."""
    return {
        Stage.NODE: partial(open_node, image, sizes, say),
        Stage.CLUSTER: partial(open_cluster, image, sizes, say),
        Stage.KUASAR: partial(open_kuasar, image, say),
    }


def _run(names: Sequence[str], sizes: Sizes, as_json: bool) -> int:
    scenarios = choose(names)
    image = build_with_progress(IMAGES)
    outcomes, troubles = run_plan(scenarios, stages_of(image, sizes, _say), _say)
    result = Result(
        size=sizes.name,
        passed=sum(one.verdict is Verdict.PASSED for one in outcomes),
        outcomes=tuple(outcomes),
        troubles=tuple(troubles),
    )
    _show(result)
    if as_json:
        sys.stderr.flush()
        print(msgspec.json.encode(result).decode())
    return result.exit_status


def _show(result: Result) -> None:
    print_table(expected_table(result.outcomes))
    print_table(scenario_table(result.outcomes, result.size))
    for one in result.outcomes:
        for problem in one.problems:
            print(f"{one.verdict}: {one.name}: {problem}")
    for trouble in result.troubles:
        print(f"trouble: {trouble}")
    print(f"{result.passed} of {len(result.outcomes)} scenarios passed ({result.size} form)")


def _say(text: str) -> None:
    console.print(f"[dim]validate[/] {text}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
