"""A comparison is told to people, and to programs; only what is worse fails it."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path

import pytest

from bench.bundle import BundleWriter, read_bundle, verify_bundle
from bench.compare.__main__ import THRESHOLDS, keep, variable
from bench.compare.builds import Build
from bench.compare.result import (
    EXIT_WORSE,
    Comparison,
    as_json,
    missing,
    read_thresholds,
    summary,
    verdict_table,
)
from bench.compare.rounds import Side
from bench.compare.verdict import judge_all

ROOT = Path(__file__).parents[4]


def a_comparison(factor: float, rounds: int = 20) -> Comparison:
    """Of a series that takes `factor` times as long; beside it each side lacks one."""
    sides = tuple(
        Side(name, Build(name, ROOT, Path("python")), Path(f"{name}.log"))
        for name in ("base", "head")
    )
    base, head = sides
    base.rounds = {"a.b": [[[1.0 + n / 1000]] for n in range(rounds)], "a.old": [[[1.0]]] * rounds}
    head.rounds = {
        "a.b": [[[factor + n / 1000]] for n in range(rounds)],
        "a.new": [[[1.0]]] * rounds,
    }
    base.lost = {"a.new": 3}
    base.at_s, head.at_s = ([shift + 10.0 * n for n in range(rounds)] for shift in (100, 104))
    judged = judge_all(base.rounds, head.rounds, {"a.b": 0.05})
    return Comparison((base, head), judged, rounds, seed=7, steal=0.25)


@pytest.mark.parametrize(("factor", "status"), [(1.15, EXIT_WORSE), (1.0, 0), (0.8, 0)])
def test_only_what_is_worse_fails(factor: float, status: int) -> None:
    assert a_comparison(factor).exit_status == status


def test_doubt_does_not_fail_and_says_how_many_rounds_would_tell() -> None:
    found = a_comparison(1.15, rounds=4)
    assert found.exit_status == 0
    assert "too noisy to say, about 4 more rounds would tell" in verdict_table(found.judged).rows[0]


def test_a_series_that_one_side_lacks_is_listed_with_where_to_look() -> None:
    assert missing(a_comparison(1.0).sides) == [
        "base lacks a.new: measured 3 times; why is in base.log",
        "head lacks a.old: measured 0 times; why is in head.log",
    ]


def test_the_summary_names_what_is_worse_and_what_the_host_took() -> None:
    text = summary(a_comparison(1.15))
    assert text.startswith("worse: a.b; 1 series, 20 rounds")
    assert text.endswith("the host took 25.0% of processor time")


def test_programs_get_every_verdict() -> None:
    said = json.loads(json.dumps(as_json(a_comparison(1.15))))
    assert (said["worse"], said["exit_status"], said["seed"]) == (["a.b"], EXIT_WORSE, 7)
    assert said["series"][0]["verdict"] == "worse"


def test_the_bundle_has_every_sample_and_the_log_of_what_is_missing(tmp_path: Path) -> None:
    found = a_comparison(1.15)
    for side in found.sides:
        side.log = tmp_path / side.log
        side.log.write_text("its words")
    with BundleWriter(tmp_path / "bundle", "compare") as writer:
        keep(writer, found)
    assert verify_bundle(tmp_path / "bundle") == []
    bundle = read_bundle(tmp_path / "bundle")
    head = [one for one in bundle.samples if one.dims == {"side": "head"} and one.series == "a.b"]
    assert [round(one.value or 0) for one in head[:2]] == [1150000, 1151000]
    assert [(one.round, one.at_s) for one in head[:2]] == [(0, 4.0), (1, 14.0)]
    assert len(bundle.samples) == 4 * 20
    assert (tmp_path / "bundle" / "logs" / "base.log").read_text() == "its words"


def test_thresholds_are_of_the_file_or_the_default(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('default = 0.05\n[series]\n"a.b" = 0.2\n')
    assert read_thresholds(tmp_path / "t.toml", {"a.b", "a.c"}) == {"a.b": 0.2, "a.c": 0.05}


def test_every_series_with_a_threshold_exists() -> None:
    for name in tomllib.loads(THRESHOLDS.read_text())["series"]:
        suite, _, test = name.partition(".")
        text = (ROOT / "bench" / "suites" / f"test_{suite}.py").read_text()
        assert f"def test_{test}(" in text


def test_variables_are_names_with_values() -> None:
    assert variable("A=b=c") == ("A", "b=c")
    for text in ("A", "=b"):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME=VALUE"):
            variable(text)
