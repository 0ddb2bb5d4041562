"""Run the whole suite under coverage, then say how many tests ran, how much they covered."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
FLOOR_PERCENT = 90.0
# Below these roots the floor holds: decisions, adapters, engine.
COVERED = ("agentd/engine", "agentd/vmm", "agentd/store", "agentd/warmfork", "agentd/wire")


def run_pytest(extra: list[str], junit: Path) -> int:
    """Run pytest; returns its exit status."""
    argv = [sys.executable, "-m", "pytest", f"--junit-xml={junit}", *extra]
    return subprocess.run(argv, cwd=ROOT, check=False).returncode


def count_tests(junit: Path) -> dict[str, int]:
    """The totals of a JUnit report."""
    suites = ElementTree.parse(junit).getroot().findall("testsuite")
    names = ("tests", "failures", "errors", "skipped")
    return {name: sum(int(suite.get(name, "0")) for suite in suites) for name in names}


def branch_percent(report: Path) -> float:
    """The share of branches covered below COVERED, in percent."""
    files = json.loads(report.read_text())["files"]
    rows = [row["summary"] for path, row in files.items() if path.startswith(COVERED)]
    total = sum(row["num_branches"] for row in rows)
    return 100.0 * sum(row["covered_branches"] for row in rows) / total if total else 0.0


def measure() -> float:
    """Combine what every process recorded; returns the branch coverage in percent."""
    report = BUILD / "coverage.json"
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "combine", "-q"], cwd=ROOT, check=False)
    subprocess.run([*coverage, "json", "-q", "-o", str(report)], cwd=ROOT, check=True)
    return branch_percent(report)


def main() -> int:
    """Exit status: pytest's, or 3 when coverage is below the floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--kvm", action="store_true", help="only the nested KVM tests")
    args, rest = parser.parse_known_args()
    BUILD.mkdir(exist_ok=True)
    junit = BUILD / "tests.xml"
    if args.kvm:
        status, percent = run_pytest(["-m", "kvm", *rest], junit), None
    else:
        extra = ["-m", "not kvm", "--cov", "--cov-report=", *rest]
        status = run_pytest(extra, junit)
        percent = measure()
    counts = count_tests(junit)
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    failed = counts["failures"] + counts["errors"]
    if percent is not None:
        print(
            f"branches covered in {', '.join(COVERED)}: {percent:.1f} % (floor {FLOOR_PERCENT} %)"
        )
        if percent < FLOOR_PERCENT and not rest:
            print("coverage is below its floor", file=sys.stderr)
            status = status or 3
    print(f"{passed} passed, {failed} failed, {counts['skipped']} skipped")
    if args.json:
        print(json.dumps({**counts, "passed": passed, "branch_percent": percent}))
    return status


if __name__ == "__main__":
    sys.exit(main())
