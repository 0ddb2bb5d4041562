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
import sys
import time
from dataclasses import asdict
from typing import Any

import msgspec

from agentd.cli.demo import build_with_progress
from agentd.cli.demo_machine import describe_machine
from agentd.cli.tables import print_table
from agentd.errors import ErrorCode, UsageError
from bench.demo import IMAGES
from bench.machine import ROOT, read_commit
from bench.promises import Promise, show
from bench.suites.budget import Form
from bench.suites.process import SUITES, Run, run_suites
from bench.suites.promised import judge_promises
from bench.suites.samples import Sample, as_builtins, samples_of
from bench.suites.tables import failed, series_table, shortened
from bench.target import run_target

DIRECTORY = ROOT / "build" / "bench"


def names() -> list[str]:
    """Of all suites."""
    return sorted(path.stem.removeprefix("test_") for path in SUITES.glob("test_*.py"))


def measure(form: Form, only: list[str]) -> tuple[Run, list[Sample], float]:
    """Every sample; when the run began, seconds since 1970."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    build_with_progress(IMAGES)
    begun_at_s = time.time()
    found = run_suites(form, only, DIRECTORY)
    samples = [one for test in found.benchmarks for one in samples_of(test, begun_at_s)]
    return found, samples, begun_at_s


def tell(found: Run, samples: list[Sample], promises: list[Promise], took_s: float) -> list[str]:
    """Everything a person reads. Returns: the failures in words."""
    print_table(series_table(samples))
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
    found, samples, begun_at_s = measure(form, only)
    took_s = time.time() - begun_at_s
    # A part of the suites, or one round of each, says nothing of promises.
    promises = judge_promises(samples) if not only and form is not Form.SMOKE else []
    failures = tell(found, samples, promises, took_s)
    is_kept = all(one.is_kept for one in promises)
    told = _as_json(form, samples, promises, failures, found, took_s)
    keep(samples, told)
    if as_json:
        print(json.dumps(told))
    return 0 if is_kept and not failures else 1


def keep(samples: list[Sample], told: dict[str, Any]) -> None:
    """Write every sample, a line each, and what was told of them."""
    lines = "".join(json.dumps(one) + "\n" for one in as_builtins(samples))
    (DIRECTORY / "samples.jsonl").write_text(lines)
    (DIRECTORY / "result.json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"every sample: {DIRECTORY / 'samples.jsonl'}")


def _as_json(
    form: Form,
    samples: list[Sample],
    promises: list[Promise],
    failures: list[str],
    found: Run,
    took_s: float,
) -> dict[str, Any]:
    table = series_table(samples)
    return {
        "form": form.value,
        "took_s": round(took_s, 1),
        "is_kept": all(one.is_kept for one in promises),
        "machine": msgspec.to_builtins(describe_machine("", commit=read_commit())),
        "promises": [asdict(one) for one in promises],
        "series": [dict(zip(table.columns, row, strict=True)) for row in table.rows],
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
