"""Both sides are measured in each round, in the order of the lot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentd.errors import PermanentError
from bench.compare.builds import Build
from bench.compare.rounds import Samples, Side, measure_suites, read_report, run_in_turn


def a_side(name: str, tree: Path = Path("/nowhere")) -> Side:
    return Side(name, Build("abc", tree, Path(sys.executable)), tree / f"{name}.log")


def order_of(seed: int, rounds: int = 200) -> list[str]:
    seen: list[str] = []

    def measure(side: Side) -> Samples:
        seen.append(side.name)
        return {"journal.append": [1.0]}

    run_in_turn((a_side("base"), a_side("head")), rounds, seed, measure, lambda _: None)
    return seen


def test_each_round_measures_both_and_either_is_first_as_often() -> None:
    seen = order_of(seed=1)
    pairs = list(zip(seen[0::2], seen[1::2], strict=True))
    assert {frozenset(pair) for pair in pairs} == {frozenset({"base", "head"})}
    assert 70 < sum(first == "base" for first, _ in pairs) < 130


def test_the_seed_orders_the_rounds() -> None:
    assert order_of(seed=1) == order_of(seed=1)
    assert order_of(seed=1) != order_of(seed=2)


def test_a_series_that_failed_in_a_round_is_lost_not_paired_with_others() -> None:
    base, head = a_side("base"), a_side("head")
    runs = {"base": 0, "head": 0}

    def measure(side: Side) -> Samples:
        runs[side.name] += 1
        found = {"always": [float(runs[side.name])], "at times": [1.0]}
        if side.name == "head" and runs["head"] == 2:
            del found["at times"]
        return found

    told: list[int] = []
    run_in_turn((base, head), 3, 0, measure, told.append)
    assert told == [1, 2, 3]
    assert base.rounds["always"] == head.rounds["always"] == [[1.0], [2.0], [3.0]]
    assert head.lost == {"at times": 2}
    assert "at times" not in head.rounds


# --- real runs of pytest ------------------------------------------------------------------------

WORKS = "def test_add(benchmark):\n    assert benchmark(sum, [1, 2]) == 3\n"
FAILS = "def test_more(benchmark):\n    raise RuntimeError('not there yet')\n"
ABSENT = "from agentd import what_is_not_there_yet\n"


def a_tree(tmp_path: Path, **suites: str) -> Side:
    directory = tmp_path / "bench" / "suites"
    directory.mkdir(parents=True)
    options = "--benchmark-min-rounds=5 --benchmark-max-time=0.001 -p no:cacheprovider"
    (directory / "pytest.ini").write_text(f"[pytest]\naddopts = {options}\n")
    for name, text in suites.items():
        (directory / f"test_{name}.py").write_text(text)
    return a_side("base", tmp_path)


def test_what_a_side_cannot_run_is_left_out_and_the_rest_measured(tmp_path: Path) -> None:
    side = a_tree(tmp_path, sums=WORKS + FAILS, future=ABSENT)
    found = measure_suites(side, [])
    assert set(found) == {"sums.add"}
    assert len(found["sums.add"]) >= 5
    assert "not there yet" in side.log.read_text()
    assert "what_is_not_there_yet" in side.log.read_text()


def test_suites_can_be_chosen(tmp_path: Path) -> None:
    side = a_tree(tmp_path, sums=WORKS, other=WORKS)
    assert set(measure_suites(side, ["other"])) == {"other.add"}


ASKS = """
def test_form(benchmark, pytestconfig):
    assert pytestconfig.getoption("--form") == "quick"
    benchmark(sum, [1, 2])
"""


def test_series_on_machines_are_measured_in_the_form_that_is_asked_for(tmp_path: Path) -> None:
    side = a_tree(tmp_path, machines=ASKS)
    (side.build.tree / "bench" / "suites" / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--form')\n"
    )
    assert set(measure_suites(side, [], "quick")) == {"machines.form"}
    with pytest.raises(PermanentError, match="no samples"):
        measure_suites(side, [])


def test_nothing_measured_is_an_error_with_the_words_of_pytest(tmp_path: Path) -> None:
    side = a_tree(tmp_path, sums=FAILS)
    with pytest.raises(PermanentError, match="no samples") as caught:
        measure_suites(side, [])
    assert "not there yet" in caught.value.message


def test_an_empty_report_has_no_samples() -> None:
    assert read_report(b"") == {}
