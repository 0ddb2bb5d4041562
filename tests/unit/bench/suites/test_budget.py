"""The quick form ends in time, and every series has at least one round."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bench.suites.budget import AROUND_S, TOTAL_S, Allowance, Budget, Form
from bench.suites.process import SUITES

BUDGET = Budget(quick_s=10.0, quick=5, full=50)


class Clock:
    """Moved by the test."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def rounds_of(form: Form, round_s: float, budget: Budget = BUDGET) -> int:
    clock = Clock()
    allowance = Allowance(budget, form, clock)
    while allowance.take():
        clock.now_s += round_s
    return allowance.taken


def test_short_rounds_are_all_measured() -> None:
    assert rounds_of(Form.QUICK, 1.0) == 5
    assert rounds_of(Form.FULL, 1.0) == 50


def test_no_round_begins_that_would_end_too_late() -> None:
    assert rounds_of(Form.QUICK, 3.0) == 3
    assert rounds_of(Form.QUICK, 5.1) == 1


def test_one_round_is_measured_however_long_it_takes() -> None:
    assert rounds_of(Form.QUICK, 60.0) == 1


def test_the_full_form_takes_the_time_it_takes() -> None:
    assert rounds_of(Form.FULL, 600.0) == 50


def test_the_smoke_form_has_one_round() -> None:
    assert rounds_of(Form.SMOKE, 0.1) == 1


def test_a_series_of_the_full_form_alone_has_no_rounds_in_others() -> None:
    late = Budget(0.0, 0, 5)
    assert [late.rounds(form) for form in Form] == [0, 0, 5]


def budgets(path: Path) -> list[tuple[float, ...]]:
    """What the marks of a suite say, once for each set of parameters that is written out."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    marks = [one for one in calls if ast.unparse(one.func) == "pytest.mark.budget"]
    return [
        tuple(ast.literal_eval(keyword.value) for keyword in mark.keywords)
        for mark in marks
        if mark.keywords
    ]


# Tests that are measured twice, by their suite.
TWICE = {"test_cold.py": 25.0}


def sizes() -> dict[int, tuple[float, int, int]]:
    """Of the fan-out, whose marks are made of them."""
    tree = ast.parse((SUITES / "test_fan_out.py").read_text())
    (found,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SIZES"
    ]
    return dict(ast.literal_eval(found))


def test_all_budgets_together_fit_into_the_quick_form() -> None:
    files = sorted(SUITES.glob("test_*.py"))
    total_s = sum(mark[0] for path in files for mark in budgets(path))
    total_s += sum(quick_s for quick_s, _, _ in sizes().values()) + sum(TWICE.values())
    assert total_s + AROUND_S <= TOTAL_S


@pytest.mark.parametrize("path", sorted(SUITES.glob("test_*.py")), ids=lambda path: path.stem)
def test_every_series_says_what_it_measures(path: Path) -> None:
    """From which event to which: in the docstring of each test."""
    tests = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert tests
    assert [one.name for one in tests if not ast.get_docstring(one)] == []
