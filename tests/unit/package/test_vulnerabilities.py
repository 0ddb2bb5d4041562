"""What an audit's report means."""

from __future__ import annotations

import json

import pytest

from tests.package import audit
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


@pytest.mark.parametrize(
    ("status", "if_reachable", "ended"),
    [
        (UNASKED, False, UNASKED),
        (UNASKED, True, CLEAN),
        (VULNERABLE, True, VULNERABLE),
        (CLEAN, True, CLEAN),
    ],
)
def test_nobody_to_ask_is_no_failure_where_that_was_said(
    status: int,
    if_reachable: bool,
    ended: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(audit, "ask", lambda lock, service: (status, [lock]))
    assert audit.run((), if_reachable=if_reachable, as_json=True) == ended
    said = capsys.readouterr().out
    assert ("this says nothing" in said) == (status == UNASKED)
    assert json.loads(said.splitlines()[-1]) == {"found": ["runtime"], "exit_status": ended}
