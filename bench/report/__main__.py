"""Make a page of a bundle: python -m bench.report BUNDLE [--base BUNDLE] [-o FILE] [--text]

The page is written beside the bundle, unless -o says where. With --text the same is printed
instead; with both, both. --markdown prints what docs/performance.md quotes of a bundle that is kept
in bench/baselines. Exit status: 0, or that of the error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.report.writing import format_baseline, format_report, write_report
from bench.target import run_target


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or that of the error."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--base", type=Path, help="a bundle to compare with")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    parser.add_argument("--text", action="store_true", help="print it")
    parser.add_argument("--markdown", action="store_true", help="print origin and series alone")
    args = parser.parse_args(argv)
    return run_target(lambda: _run(args), as_json=False)


def _run(args: argparse.Namespace) -> int:
    if args.markdown:
        sys.stdout.write(format_baseline(args.bundle))
        return 0
    if args.text:
        sys.stdout.write(format_report(args.bundle, args.base))
    if args.output or not args.text:
        print(f"report: {write_report(args.bundle, args.output, args.base)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
