"""What a run saw is in its bundle: times as samples, failures counted, evidence as it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agentd.errors import UsageError
from bench.bundle import BundleWriter, read_bundle, verify_bundle
from bench.validate.__main__ import Result, choose
from bench.validate.evidence import Evidence, Start
from bench.validate.plan import SCENARIOS
from bench.validate.publish import file_name, publish
from bench.validate.run import Outcome, Verdict
from bench.validate.scenario import Stage
from bench.validate.show import expected_table, scenario_table, starts_table

GOOD = Start(
    name="s-1", group="fork", asked="fork", said="fork", is_incoming=True, ms=300.0, at_s=105.0
)
COLD = Start(name="s-2", group="cold", asked="cold", said="cold", ms=9e3, at_s=101.0)
REFUSED = Start(name="nobody", group="fork", asked="fork", error="node_full", message="no room")


def outcome(name: str, verdict: Verdict, *starts: Start) -> Outcome:
    evidence = Evidence(scenario=name, machine_kind="qemu", starts=starts, facts={"asked": 2})
    problems = () if verdict is Verdict.PASSED else ("nobody did not start: node_full",)
    return Outcome(
        name=name, stage=Stage.NODE, setup="a node", expected="forks", machine_kind="qemu",
        verdict=verdict, problems=problems, seconds=2.0, evidence=evidence,
    )  # fmt: skip


OUTCOMES = [
    outcome("restore hit", Verdict.FAILED, GOOD, REFUSED),
    outcome("cold baseline", Verdict.PASSED, COLD),
]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    with BundleWriter(tmp_path / "bundle", "make validate") as writer:
        publish(writer, SCENARIOS, OUTCOMES, begun_at_s=100.0)
    return tmp_path / "bundle"


def test_the_bundle_verifies(bundle: Path) -> None:
    assert verify_bundle(bundle) == []


def test_evidence_that_was_changed_afterwards_is_noticed(bundle: Path) -> None:
    path = bundle / "evidence" / "restore-hit.json"
    path.write_text(path.read_text().replace('"cold"', '"fork"').replace("failed", "passed"))
    assert [text for text in verify_bundle(bundle) if "restore-hit.json" in text]


def test_a_start_that_failed_is_counted_and_has_no_time(bundle: Path) -> None:
    (fork,) = [
        one for one in read_bundle(bundle).percentiles if one.dims["group"] == "fork" and one.n
    ]
    failed = [one for one in read_bundle(bundle).samples if one.error]
    assert (fork.n, fork.p50, fork.max) == (1, 300.0, 300.0)
    assert [one.error for one in failed] == ["node_full: no room"]


def test_evidence_is_what_was_judged(bundle: Path) -> None:
    raw = (bundle / "evidence" / "restore-hit.json").read_bytes()
    assert msgspec.json.decode(raw, type=Outcome) == OUTCOMES[0]


def test_a_failure_has_a_log_of_its_own(bundle: Path) -> None:
    assert [path.name for path in (bundle / "logs").iterdir()] == ["restore-hit.txt"]
    assert "node_full" in (bundle / "logs" / "restore-hit.txt").read_text()


def test_verdicts_are_among_the_promises(bundle: Path) -> None:
    found = {one.name: one.is_kept for one in read_bundle(bundle).promises}
    assert found == {"restore hit": False, "cold baseline": True}


def test_cold_starts_stand_first_beside_the_others(bundle: Path) -> None:
    table = starts_table(read_bundle(bundle).percentiles)
    assert table.rows[0][:3] == ("cold baseline", "cold", "cold")
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_a_person_reads_what_was_expected_and_what_was_seen() -> None:
    (row, _other) = scenario_table(OUTCOMES, "quick").rows
    assert row[2:4] == ("fork: 1 restored, 1 refused (node_full)", "failed")
    assert expected_table(OUTCOMES).rows[0] == ("restore hit", "a node", "forks")


@pytest.mark.parametrize(
    ("passed", "troubles", "problems", "status"),
    [(2, (), (), 0), (1, (), (), 1), (2, ("left behind: 1 qemu",), (), 1), (2, (), ("digest",), 1)],
    ids=["all passed", "one failed", "something left", "a bundle that is wrong"],
)
def test_the_exit_status_tells(
    passed: int, troubles: tuple[str, ...], problems: tuple[str, ...], status: int
) -> None:
    result = Result(
        size="quick", passed=passed, report="r.html",
        bundle="b", bundle_problems=problems,
        outcomes=tuple(OUTCOMES), troubles=troubles,
    )  # fmt: skip
    assert result.exit_status == status


def test_scenarios_are_chosen_by_name() -> None:
    assert [one.name for one in choose(["agentic RL"])] == ["agentic RL"]
    assert choose([]) == list(SCENARIOS)
    with pytest.raises(UsageError, match="there is no 'nope'"):
        choose(["nope"])


def test_every_scenario_has_a_file_of_its_own() -> None:
    names = [file_name(one.name) for one in SCENARIOS]
    assert len(set(names)) == len(SCENARIOS)
    assert file_name("cluster: N-way fan-out") == "cluster-n-way-fan-out"
