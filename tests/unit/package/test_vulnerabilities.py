"""What an audit's report means."""

from __future__ import annotations

import pytest

from tests.package.audit import CLEAN, UNASKED, VULNERABLE, judge, read_report

CLEAN_ONE = '{"name": "a", "version": "1", "vulns": []}'
HIT = '{"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}'
SKIPPED = '{"name": "c", "skip_reason": "Dependency not found on PyPI"}'


@pytest.mark.parametrize(
    ("rows", "status", "lines"),
    [
        ([CLEAN_ONE], CLEAN, []),
        ([CLEAN_ONE, HIT], VULNERABLE, ["b 2: CVE-1 (fixed in 3)"]),
        ([CLEAN_ONE, SKIPPED], UNASKED, ["c: not asked: Dependency not found on PyPI"]),
        (
            [HIT, SKIPPED],
            VULNERABLE,
            ["b 2: CVE-1 (fixed in 3)", "c: not asked: Dependency not found on PyPI"],
        ),
        ([], UNASKED, []),
    ],
    ids=["clean", "vulnerable", "skipped", "vulnerable-and-skipped", "nothing"],
)
def test_a_package_that_nobody_knows_is_not_clean(
    rows: list[str], status: int, lines: list[str]
) -> None:
    report = read_report(f'{{"dependencies": [{", ".join(rows)}], "fixes": []}}')
    assert report is not None
    assert judge(report) == (status, lines)


def test_no_report_is_no_verdict() -> None:
    assert read_report("") is None
