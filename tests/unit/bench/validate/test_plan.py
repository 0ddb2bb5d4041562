"""Every scenario can be acted out, every act is a scenario, the document has all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.validate import cluster_stage, node_stage
from bench.validate.plan import SCENARIOS
from bench.validate.scenario import Scenario, Stage
from bench.validate.sizes import FULL, QUICK

PAGE = (Path(__file__).parents[4] / "docs" / "validation.md").read_text()


@pytest.mark.parametrize(
    ("stage", "acts"),
    [(Stage.NODE, node_stage.ACTS), (Stage.CLUSTER, cluster_stage.ACTS)],
    ids=str,
)
def test_scenarios_and_acts_are_the_same(stage: Stage, acts: dict[str, object]) -> None:
    assert {one.name for one in SCENARIOS if one.stage is stage} == set(acts)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_the_page_says_what_it_proves(scenario: Scenario) -> None:
    assert f"| {scenario.name} |" in PAGE


def test_where_no_machine_runs_no_time_is_a_sample() -> None:
    assert [one.name for one in SCENARIOS if one.machine_kind != "qemu" and one.timed] == []


def test_the_full_form_is_larger_in_everything() -> None:
    for name in ("cold", "forks", "together", "mixed", "episodes", "cluster", "cluster_together"):
        assert getattr(FULL, name) > getattr(QUICK, name)
