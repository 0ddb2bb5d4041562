"""A count over its budget fails; what is counted can become the budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.errors import PermanentError, UsageError
from bench.instructions import __main__ as program
from bench.instructions import count
from bench.instructions.budget import Budget, Verdict, judge, read_budget
from bench.instructions.count import count_all, read_total
from bench.instructions.series import SERIES

ABOUT_100 = Budget("3.11", 0.02, {"a": 100})


@pytest.mark.parametrize(
    ("instructions", "verdict"),
    [
        (101.9, Verdict.WITHIN),
        (102.1, Verdict.OVER),
        (98.1, Verdict.WITHIN),
        (97.9, Verdict.UNDER),
    ],
)
def test_beyond_the_margin_a_count_is_over_or_under(instructions: float, verdict: Verdict) -> None:
    assert judge({"a": instructions}, ABOUT_100)[0].verdict is verdict


def test_a_series_without_a_budget_is_told() -> None:
    assert judge({"b": 5.0}, ABOUT_100)[0].verdict is Verdict.NONE


def test_every_series_has_a_budget_and_every_budget_a_series() -> None:
    assert set(read_budget(program.BUDGET).series) == set(SERIES)


@pytest.mark.parametrize("name", SERIES)
def test_every_series_can_be_called(name: str) -> None:
    assert SERIES[name][0]()() is not None


def test_the_total_of_callgrind_is_read_or_its_absence_told() -> None:
    assert read_total("version: 1\nevents: Ir\nsummary: 726470211\n\nfn=(1) main\n") == 726470211
    with pytest.raises(PermanentError, match="has no total"):
        read_total("events: Ir\n")


def test_without_valgrind_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PermanentError) as caught:
        count_all(["journal.line_written"])
    assert "deploy/install-system-packages valgrind" in str(caught.value.hint)


# --- the program, by counts that are told here ---------------------------------------------------


@pytest.fixture
def budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "budget.toml"
    series = '[series]\n"lookup.hash" = 100\n"journal.line_written" = 10\n'
    path.write_text(f'python = "{program.PYTHON}"\nmargin = 0.02\n{series}')
    monkeypatch.setattr(program, "BUDGET", path)
    monkeypatch.setattr(program, "count_all", lambda names: dict.fromkeys(names, 110.0))
    return path


def test_over_the_budget_fails(budget: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["lookup.hash"], False, True) == program.EXIT_OVER
    said = capsys.readouterr().out
    assert "+10.00%" in said
    assert '"over": ["lookup.hash"]' in said


def test_accepted_counts_are_the_budget_and_others_stay(budget: Path) -> None:
    assert program.run(["lookup.hash"], True, False) == 0
    assert read_budget(budget).series == {"lookup.hash": 110, "journal.line_written": 10}
    assert program.run(["lookup.hash"], False, False) == 0


def test_budgets_of_another_python_are_not_compared_with(budget: Path) -> None:
    budget.write_text(budget.read_text().replace(program.PYTHON, "3.99"))
    with pytest.raises(UsageError, match=r"the budgets are of Python 3\.99"):
        program.run(["lookup.hash"], False, False)
    assert program.run(["lookup.hash"], True, False) == 0
    assert read_budget(budget).series == {"lookup.hash": 110}


def test_a_run_that_fails_is_an_error_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "7.log").write_text("KeyError: 'no.such'")
    with pytest.raises(PermanentError, match="status 1: KeyError"):
        count.Run("no.such", 7, tmp_path).total(1)
