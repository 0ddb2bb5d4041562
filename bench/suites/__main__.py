"""Measure every suite, say which promises are kept, keep the samples.

make bench                    about ten minutes: fewer rounds, nothing above 32 forks at once
make bench FULL=1             every round of every series: an hour or more
make bench JSON=1             and one JSON object as the last line
python -m bench.suites --only fork cold

Exit status 1 when a promise is not kept, or a measurement failed. The guest image, if it is not
built yet, comes on top.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

import msgspec

from agentd.cli.demo import build_with_progress
from agentd.cli.demo_machine import describe_machine
from agentd.cli.tables import print_table
from agentd.errors import ErrorCode, UsageError
from bench.bundle import BundleWriter, Promised, Sample, summarize_groups
from bench.demo import IMAGES
from bench.machine import ROOT, read_commit
from bench.promises import Promise, show
from bench.report import write_report
from bench.report.figures import measure_groups
from bench.report.tables import series_table
from bench.suites.budget import Form
from bench.suites.process import SUITES, Run, run_suites
from bench.suites.promised import judge_promises
from bench.suites.samples import samples_of
from bench.suites.tables import failed, shortened
from bench.target import run_target

BUILD = ROOT / "build" / "bench"


def names() -> list[str]:
    """Of all suites."""
    return sorted(path.stem.removeprefix("test_") for path in SUITES.glob("test_*.py"))


def measure(form: Form, only: list[str], bundle: BundleWriter) -> tuple[Run, list[Sample]]:
    """Every sample, in the bundle too; with the log of a run in which tests failed."""
    directory = BUILD / "run"
    directory.mkdir(parents=True, exist_ok=True)
    begun_at_s = time.time()
    found = run_suites(form, only, directory)
    samples = [one for test in found.benchmarks for one in samples_of(test, begun_at_s)]
    bundle.add(*samples)
    if found.outcomes.failed:
        bundle.add_file("logs/pytest.log", (directory / "pytest.log").read_bytes())
    return found, samples


def tell(found: Run, samples: list[Sample], promises: list[Promise], took_s: float) -> list[str]:
    """Everything a person reads. Returns: the failures in words."""
    print_table(series_table(sorted(measure_groups(samples), key=lambda one: one.group)))
    print()
    if promises:
        show(promises)
    failures = failed(samples, found.outcomes.failed)
    for line in (*shortened(found.benchmarks, found.outcomes), *failures):
        print(line)
    print(f"{len(samples)} samples in {took_s:.0f} s, {len(failures)} failures")
    return failures


def run(form: Form, only: list[str], as_json: bool) -> int:
    """Exit status 1 when a promise is not kept or something failed."""
    if unknown := sorted(set(only) - set(names())):
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"measuring {', '.join(unknown)}: there is no such suite",
            hint=f"there are {', '.join(names())}",
        )
    build_with_progress(IMAGES)
    place = BUILD / ("part" if only else form.value)
    with BundleWriter(place, command_of(form, only), qemu_version=qemu_version()) as bundle:
        found, samples = measure(form, only, bundle)
        took_s = bundle.at_s
        # A part of the suites, or one round of each, says nothing of promises.
        promises = [] if only or form is Form.SMOKE else judge_promises(samples)
        bundle.promise(*(promised(one) for one in promises))
    failures = tell(found, samples, promises, took_s)
    report = write_report(place)
    print(f"bundle: {place}\nreport: {report}")
    if as_json:
        told = _as_json(form, samples, promises, failures, found, took_s)
        print(json.dumps({**told, "bundle": str(place), "report": str(report)}))
    return 0 if all(one.is_kept for one in promises) and not failures else 1


def command_of(form: Form, only: list[str]) -> str:
    """What to type for the same again."""
    words = [f"--form {form}", *([f"--only {' '.join(only)}"] if only else [])]
    return f"python -m bench.suites {' '.join(words)}"


def qemu_version() -> str:
    """As QEMU says it; empty without one."""
    try:
        done = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0].removeprefix("QEMU emulator version ")


def promised(one: Promise) -> Promised:
    """As a bundle keeps it."""
    return Promised(
        name=one.name, promised=one.promised, measured=one.measured, is_kept=one.is_kept
    )


def _as_json(
    form: Form,
    samples: list[Sample],
    promises: list[Promise],
    failures: list[str],
    found: Run,
    took_s: float,
) -> dict[str, Any]:
    return {
        "form": form.value,
        "took_s": round(took_s, 1),
        "tests_s": {name: round(s, 1) for name, s in found.outcomes.took_s.items()},
        "is_kept": all(one.is_kept for one in promises),
        "machine": msgspec.to_builtins(describe_machine("", commit=read_commit())),
        "promises": [asdict(one) for one in promises],
        "series": msgspec.to_builtins(summarize_groups(samples)),
        "shortened": shortened(found.benchmarks, found.outcomes),
        "failures": failures,
    }


def main() -> int:
    """Exit status: 1 when a promise is not kept or something failed, or that of the error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--form", choices=list(Form), type=Form, default=Form.QUICK)
    parser.add_argument("--only", nargs="*", default=[], metavar="SUITE", help=", ".join(names()))
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_target(lambda: run(args.form, args.only, args.json), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
