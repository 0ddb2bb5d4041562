"""Small decisions of the command line."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agentd.cli.outcome import describe_failure, exit_code_of
from agentd.cli.tables import Table, age, format_plain, span
from agentd.cli.verify import Answer, compare
from agentd.client.execution import Execution


@pytest.mark.parametrize(
    ("detail", "code"), [("7", 7), ("exit status 3", 3), ("-1", 255), ("", 1), ("0", 0)]
)
def test_the_codes_own_exit_status_is_handed_through(detail: str, code: int) -> None:
    assert exit_code_of(Execution(status="exited", detail=detail)) == code


def test_a_status_nobody_knows_is_a_failure() -> None:
    done = Execution(status="evaporated")
    assert exit_code_of(done) == 10
    assert "evaporated" in describe_failure(done)


def test_plain_tables_keep_one_row_a_line() -> None:
    table = Table(("A", "N"), [("x\ny", "1"), ("longer", "22")], numeric=frozenset({"N"}))
    assert format_plain(table) == "A        N\nx y      1\nlonger  22\n"
    assert format_plain(Table(("A",), [], empty="nothing")) == "nothing\n"


def test_ages_are_short() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert age("2026-01-01T00:00:00Z", now) == "1.0d"
    assert age("2026-01-01T23:59:58", now) == "2s"
    assert age("", now) == "-"
    assert span(90) == "1.5m"


def answer(number: int, **more: object) -> Answer:
    whole = {
        "identity": {"hostname": f"h{number}", "urandom": f"u{number}"}, "clock_s": 10.5,
        "workspace": (), "asked_s": 10.0, "answered_s": 11.0,
    }  # fmt: skip
    return Answer(**{**whole, **more})  # type: ignore[arg-type]


def test_two_sound_forks_pass_every_check() -> None:
    assert all(check.is_ok for check in compare(answer(1), answer(2)))


@pytest.mark.parametrize(
    ("second", "failed"),
    [
        (answer(1), {"hostname differs", "urandom differs"}),
        (answer(2, identity={"hostname": "h2"}), {"urandom differs"}),
        (answer(2, clock_s=14.0), {"clock is right"}),
        (answer(2, workspace=("left",)), {"workspace is empty"}),
    ],
    ids=["twins", "no-answer", "wrong-clock", "files-left"],
)
def test_what_two_forks_share_is_named(second: Answer, failed: set[str]) -> None:
    assert {check.name for check in compare(answer(1), second) if not check.is_ok} == failed
