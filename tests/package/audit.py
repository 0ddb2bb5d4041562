"""Ask for known vulnerabilities of what is pinned for running.

make audit             status 0: none known; 1: some; 4: nobody could be asked about all of it
make audit JSON=1      and one JSON object as the last line
make audit IF_REACHABLE=1   status 0 instead of 4, for where the service is out of reach

A package that the service does not know, or that it could not be asked about, is no clean package:
pip-audit leaves such ones out and ends with 0.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from bench.target import run_target
from tests.package.made import LOCKS, TOOLS

CLEAN, VULNERABLE, UNASKED = 0, 1, 4
_AUDIT_S: Final = 600


class Vulnerability(msgspec.Struct):
    """One, as pip-audit reports it."""

    id: str
    fix_versions: list[str]


class Audited(msgspec.Struct):
    """A package. skip_reason: why nothing is known of it, empty if it was asked about."""

    name: str
    version: str = ""
    vulns: list[Vulnerability] = []
    skip_reason: str = ""


class Report(msgspec.Struct):
    """What pip-audit writes."""

    dependencies: list[Audited]


def judge(report: Report) -> tuple[int, list[str]]:
    """The exit status, a line for each package that is not clean."""
    hit = [one for one in report.dependencies if one.vulns]
    unasked = [one for one in report.dependencies if one.skip_reason]
    lines = [f"{one.name} {one.version}: {found_in(one)}" for one in hit]
    lines += [f"{one.name}: not asked: {one.skip_reason}" for one in unasked]
    if hit:
        return VULNERABLE, lines
    return (UNASKED if unasked or not report.dependencies else CLEAN), lines


def found_in(package: Audited) -> str:
    """Each vulnerability with the versions that mend it."""
    fixes = ((one.id, " or ".join(one.fix_versions)) for one in package.vulns)
    return ", ".join(f"{name} ({f'fixed in {fix}' if fix else 'not fixed'})" for name, fix in fixes)


def read_report(out: str) -> Report | None:
    """None when there is none, which is how pip-audit ends without its service."""
    try:
        return msgspec.json.decode(out, type=Report)
    except msgspec.MsgspecError:
        return None


def ask(lock: str, service: Sequence[str]) -> tuple[int, list[str]]:
    """Have pip-audit ask its service about one lock."""
    tool = str(TOOLS / "pip-audit")
    style = ("--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off")
    argv = [tool, *style, *service, "-r", str(LOCKS / f"{lock}.txt")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_AUDIT_S, check=False)
    report = read_report(done.stdout)
    if report is None:
        said = done.stderr.strip().rpartition("\n")[2]
        return UNASKED, [f"pip-audit ended with {done.returncode}: {said}"]
    return judge(report)


def run(service: Sequence[str], *, if_reachable: bool, as_json: bool) -> int:
    """The exit status; what was found is printed. if_reachable: nobody to ask is no failure."""
    status, lines = ask("runtime", service)
    print("\n".join(lines))
    verdict = {
        CLEAN: "no known vulnerabilities",
        VULNERABLE: "vulnerable packages are pinned; after a fix: make lock",
        UNASKED: "this says nothing: not all packages could be asked about",
    }[status]
    print(verdict)
    if if_reachable and status == UNASKED:
        status = CLEAN
    if as_json:
        print(msgspec.json.encode({"found": lines, "exit_status": status}).decode())
    return status


def main() -> int:
    """Exit status: as the head of this file says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument(
        "--if-reachable", action="store_true", help="status 0 if nobody could be asked"
    )
    args, service = parser.parse_known_args()
    return run_target(
        lambda: run(service, if_reachable=args.if_reachable, as_json=args.json), as_json=args.json
    )


if __name__ == "__main__":
    sys.exit(main())
