"""Run the validation plan on this machine; write a bundle that a program can verify.

make validate            quick form; tables, build/validate/
make validate FULL=1     as many samples as percentiles need
make validate JSON=1     and one JSON object as the last line
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from agentd.cli.demo import build_with_progress
from agentd.cli.tables import new_console, print_table
from agentd.errors import ErrorCode, UsageError
from agentd.image import Image
from agentd.vmm.qemu_open import probe_qemu_version
from bench.bundle import BundleWriter, read_bundle, verify_bundle
from bench.demo import IMAGES
from bench.machine import ROOT
from bench.report import write_report
from bench.target import run_target
from bench.validate.cluster_stage import open_cluster
from bench.validate.kuasar_stage import open_kuasar
from bench.validate.node_stage import open_node
from bench.validate.plan import SCENARIOS
from bench.validate.publish import publish
from bench.validate.run import OpenStage, Outcome, Verdict, run_plan
from bench.validate.scenario import Scenario, Stage
from bench.validate.show import expected_table, scenario_table, starts_table
from bench.validate.sizes import FULL, QUICK, Sizes

OUTPUT = ROOT / "build" / "validate"
console = new_console(sys.stderr)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found. troubles: about the stages, such as what was left of them."""

    size: str
    passed: int
    bundle: str
    report: str
    bundle_problems: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    troubles: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0 if every scenario passed, nothing is left, the bundle verifies."""
        has_trouble = bool(self.troubles or self.bundle_problems)
        return int(has_trouble or self.passed < len(self.outcomes))


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
    qemu_version = probe_qemu_version("qemu-system-x86_64")
    begun_at_s = time.time()
    with BundleWriter(OUTPUT, _command(names, sizes), qemu_version=qemu_version) as writer:
        outcomes, troubles = run_plan(scenarios, stages_of(image, sizes, _say), _say)
        publish(writer, scenarios, outcomes, begun_at_s)
        if troubles:
            writer.add_file("logs/stages.txt", "\n".join([*troubles, ""]))
    report = write_report(OUTPUT)
    result = Result(
        size=sizes.name,
        passed=sum(one.verdict is Verdict.PASSED for one in outcomes),
        bundle=str(OUTPUT.relative_to(ROOT)),
        report=str(report.relative_to(ROOT)),
        bundle_problems=tuple(verify_bundle(OUTPUT)),
        outcomes=tuple(outcomes),
        troubles=tuple(troubles),
    )
    _show(result)
    if as_json:
        sys.stderr.flush()
        print(msgspec.json.encode(result).decode())
    return result.exit_status


def _command(names: Sequence[str], sizes: Sizes) -> str:
    words = ["python -m bench.validate", *(["--full"] if sizes is FULL else [])]
    return " ".join([*words, *(f"--only {shlex.quote(name)}" for name in names)])


def _show(result: Result) -> None:
    print_table(expected_table(result.outcomes))
    print_table(starts_table(read_bundle(OUTPUT).percentiles))
    print_table(scenario_table(result.outcomes, result.size))
    for one in result.outcomes:
        for problem in one.problems:
            print(f"{one.verdict}: {one.name}: {problem}")
    for trouble in result.troubles:
        print(f"trouble: {trouble}")
    for problem in result.bundle_problems:
        print(f"bundle: {problem}")
    print(f"{result.passed} of {len(result.outcomes)} scenarios passed ({result.size} form)")
    print(f"bundle: {result.bundle}, checked by `python -m bench.bundle verify {result.bundle}`")
    print(f"report: {result.report}")


def _say(text: str) -> None:
    console.print(f"[dim]validate[/] {text}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
