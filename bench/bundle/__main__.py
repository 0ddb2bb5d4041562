"""Check a bundle: python -m bench.bundle verify DIRECTORY [--json]

Exit status: 0 when everything in it is as it says, 1 when it is not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.bundle.verify import verify_bundle
from bench.target import run_target


class Verified(msgspec.Struct, frozen=True):
    """What --json prints."""

    bundle: str
    is_valid: bool
    problems: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.bundle", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    verify = commands.add_parser("verify", help="check digests, samples, percentiles")
    verify.add_argument("directory", type=Path)
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    return run_target(lambda: _verify(args.directory, args.json), as_json=args.json)


def _verify(directory: Path, as_json: bool) -> int:
    problems = verify_bundle(directory)
    if as_json:
        found = Verified(str(directory), not problems, problems)
        print(msgspec.json.encode(found).decode())
    else:
        print("\n".join([*problems, f"{directory}: {'NOT VALID' if problems else 'valid'}"]))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
