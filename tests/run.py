"""Run the whole suite under coverage, then say how many tests ran, how much they covered."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from agentd.errors import ErrorCode, PermanentError
from bench.target import run_target

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
FLOOR_PERCENT = 90.0
# Below these roots the floor holds: decisions, adapters, engine.
COVERED = (
    *("agentd/engine", "agentd/vmm", "agentd/store", "agentd/warmfork", "agentd/wire"),
    *("agentd/node", "agentd/providers", "agentd/kuasar", "agentd/proxy", "agentd/pager"),
    *("controlplane/api", "controlplane/kube", "controlplane/store"),
    *("controlplane/snapshots", "controlplane/sessions", "controlplane/runtimes"),
)
# Tests in these modules run against a real Kubernetes.
CLUSTER = (
    "tests.integration.cluster",
    "tests.integration.node.test_virtual_auth",
    "tests.integration.node.test_virtual_node_cluster",
    "tests.kube",
)


def run_pytest(extra: list[str], junit: Path) -> int:
    """Run pytest; returns its exit status."""
    argv = [sys.executable, "-m", "pytest", f"--junit-xml={junit}", *extra]
    return subprocess.run(argv, cwd=ROOT, check=False).returncode


def count_tests(junit: Path) -> dict[str, int]:
    """The totals of a JUnit report."""
    suites = ElementTree.parse(junit).getroot().findall("testsuite")
    names = ("tests", "failures", "errors", "skipped")
    return {name: sum(int(suite.get(name, "0")) for suite in suites) for name in names}


def count_cluster_tests(junit: Path) -> int:
    """How many tests ran, not skipped, against a real Kubernetes."""
    cases = ElementTree.parse(junit).getroot().iter("testcase")
    ours = (case for case in cases if case.get("classname", "").startswith(CLUSTER))
    return sum(case.find("skipped") is None for case in ours)


def branch_percent(report: Path) -> float:
    """The share of branches covered below COVERED, in percent."""
    files = json.loads(report.read_text())["files"]
    rows = [row["summary"] for path, row in files.items() if path.startswith(COVERED)]
    total = sum(row["num_branches"] for row in rows)
    return 100.0 * sum(row["covered_branches"] for row in rows) / total if total else 0.0


def measure() -> float:
    """The branch coverage of the run that just ended, in percent."""
    report = BUILD / "coverage.json"
    argv = [sys.executable, "-m", "coverage", "json", "-q", "-o", str(report)]
    subprocess.run(argv, cwd=ROOT, check=True)
    return branch_percent(report)


def run_all(rest: list[str], *, marker: str, as_json: bool) -> int:
    """Run, count, judge. Raises: PermanentError when there is nothing to count.

    marker: of the tests to run; empty runs the suite.
    """
    BUILD.mkdir(exist_ok=True)
    junit = BUILD / "tests.xml"
    junit.unlink(missing_ok=True)
    whole = ["-m", "not kvm and not systemd", "--cov", "--cov-report="]
    chosen = ["-m", marker] if marker else whole
    status = run_pytest([*chosen, *rest], junit)
    counts = count_tests(junit) if junit.exists() else {}
    if not counts.get("tests"):
        raise PermanentError(
            ErrorCode.INTERNAL,
            f"running the tests: pytest ended with status {status} and ran none",
            hint="its words are above",
        )
    percent = None if marker else measure()
    status = judge(status, percent, is_whole=not rest)
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    failed = counts["failures"] + counts["errors"]
    cluster = count_cluster_tests(junit)
    print(f"{passed} passed, {failed} failed, {counts['skipped']} skipped")
    print(f"{cluster} of them against a real Kubernetes")
    if as_json:
        found = {
            "passed": passed,
            "cluster_tests": cluster,
            "branch_percent": percent,
            "exit_status": status,
        }
        print(json.dumps({**counts, **found}))
    return status


def judge(status: int, percent: float | None, *, is_whole: bool) -> int:
    """Tell the coverage; 3 instead of a success when it is below the floor of a whole run."""
    if percent is None:
        return status
    where = ", ".join(COVERED)
    print(f"branches covered in {where}: {percent:.1f} % (floor {FLOOR_PERCENT} %)")
    if percent >= FLOOR_PERCENT or not is_whole:
        return status
    print("coverage is below its floor", file=sys.stderr)
    return status or 3


def main() -> int:
    """Exit status: pytest's, or 3 when coverage is below the floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument(
        "--only", default="", choices=("kvm", "systemd"), help="only the tests with this marker"
    )
    args, rest = parser.parse_known_args()
    return run_target(lambda: run_all(rest, marker=args.only, as_json=args.json), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
