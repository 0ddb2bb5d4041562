"""Both sides are measured in each round, in the order of the lot."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentd.errors import PermanentError
from bench.compare.builds import Build
from bench.compare.rounds import (
    Samples,
    Side,
    Sides,
    measure_suites,
    read_report,
    run_in_turn,
)

ROOT = Path(__file__).parents[4]


def a_side(name: str, tree: Path = Path("/nowhere")) -> Side:
    return Side(
        name,
        Build("abc", tree, Path(sys.executable), {"PYTHONPATH": f"{tree}:{ROOT}"}),
        tree / f"{name}.log",
    )


def order_of(seed: int, rounds: int = 200) -> list[str]:
    seen: list[str] = []

    def measure(sides: Sides, draw: random.Random) -> list[Samples]:
        seen.extend(side.name for side in draw.sample(sides, 2))
        return [{"journal.append": [[1.0]]}] * 2

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


def test_a_series_that_failed_in_a_round_or_a_look_is_lost_not_paired_with_others() -> None:
    base, head = a_side("base"), a_side("head")
    told: list[int] = []

    def measure(sides: Sides, draw: random.Random) -> list[Samples]:
        number = float(len(told) + 1)
        always, often = [[number], [number]], [[1.0], [1.0]]
        whole = {"always": always, "most rounds": often, "most looks": often}
        if number != 2:
            return [whole, whole]
        return [{**whole, "most looks": [[1.0]]}, {"always": always, "most looks": often}]

    run_in_turn((base, head), 3, 0, measure, told.append)
    assert told == [1, 2, 3]
    assert base.rounds["always"] == head.rounds["always"] == [[[n], [n]] for n in (1.0, 2.0, 3.0)]
    assert (base.lost, head.lost) == ({"most looks": 2}, {"most rounds": 2})
    assert set(base.rounds) == {"always", "most rounds"}
    assert set(head.rounds) == {"always", "most looks"}


# --- real runs of pytest ------------------------------------------------------------------------

OPTIONS = """
from bench.suites.turns import TurnsPlugin

def pytest_addoption(parser):
    for option in ("--form", "--looks", "--turns"):
        parser.addoption(option)

def pytest_configure(config):
    config.pluginmanager.register(TurnsPlugin(int(config.getoption("--turns"))))
"""
WORKS = "def test_add(benchmark):\n    assert benchmark(sum, [1, 2]) == 3\n"
FAILS = "def test_more(benchmark):\n    raise RuntimeError('not there yet')\n"
ABSENT = "from agentd import what_is_not_there_yet\n"


def a_tree(tmp_path: Path, **suites: str) -> Side:
    directory = tmp_path / "bench" / "suites"
    directory.mkdir(parents=True)
    options = "--benchmark-min-rounds=5 --benchmark-max-time=0.001 -p no:cacheprovider"
    (directory / "pytest.ini").write_text(f"[pytest]\naddopts = {options}\n")
    (directory / "conftest.py").write_text(OPTIONS)
    for name, text in suites.items():
        (directory / f"test_{name}.py").write_text(text)
    return a_side("base", tmp_path)


def measure_once(side: Side, suites: Sequence[str], form: str = "") -> Samples:
    """Both sides are the same tree, so that either's samples do."""
    return measure_suites((side, a_side("head", side.build.tree)), random.Random(0), suites, form)[
        0
    ]


def test_what_a_side_cannot_run_is_left_out_and_the_rest_measured(tmp_path: Path) -> None:
    side = a_tree(tmp_path, sums=WORKS + FAILS, future=ABSENT)
    found = measure_once(side, [])
    assert set(found) == {"sums.add"}
    assert [len(samples) >= 5 for samples in found["sums.add"]] == [True]
    assert "not there yet" in side.log.read_text()
    assert "what_is_not_there_yet" in side.log.read_text()


def test_suites_can_be_chosen(tmp_path: Path) -> None:
    side = a_tree(tmp_path, sums=WORKS, other=WORKS)
    assert set(measure_once(side, ["other"])) == {"other.add"}


ASKS = """
def test_form(benchmark, pytestconfig):
    assert pytestconfig.getoption("--form") == "quick"
    benchmark(sum, [1, 2])
"""


def test_series_on_machines_are_measured_in_the_form_that_is_asked_for(tmp_path: Path) -> None:
    side = a_tree(tmp_path, machines=ASKS)
    assert set(measure_once(side, [], "quick")) == {"machines.form"}
    with pytest.raises(PermanentError, match="no samples"):
        measure_once(side, [])


def test_nothing_measured_is_an_error_with_the_words_of_pytest(tmp_path: Path) -> None:
    side = a_tree(tmp_path, sums=FAILS)
    with pytest.raises(PermanentError, match="no samples") as caught:
        measure_once(side, [])
    assert "not there yet" in caught.value.message


def test_the_samples_of_all_looks_are_of_one_series() -> None:
    tests = {f"bench/suites/test_sums.py::test_add[look{number}]": number for number in range(3)}
    tests["bench/suites/test_sums.py::test_more[look up]"] = 9
    report = {"benchmarks": [{"fullname": k, "stats": {"data": [n]}} for k, n in tests.items()]}
    found = read_report(json.dumps(report).encode())
    assert found == {"sums.add": [[0], [1], [2]], "sums.more[look up]": [[9]]}


def test_an_empty_report_has_no_samples() -> None:
    assert read_report(b"") == {}
