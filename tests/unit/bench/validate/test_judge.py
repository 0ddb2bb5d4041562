"""Evidence that contradicts an expectation is judged wrong, whatever the product says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from bench.validate.evidence import Evidence, How, Start, how_started
from bench.validate.judge import judge
from bench.validate.plan import SCENARIOS
from bench.validate.plan_cluster import FELL_BACK, RESTORED
from bench.validate.scenario import Scenario

Change = Callable[[Evidence], Evidence]


def fork(group: str, number: int, **changes: Any) -> Start:
    one = Start(
        name=f"s-{group}-{number}",
        group=group,
        asked="fork",
        said="fork",
        is_incoming=True,
        stages_ms={"spawn": 1.0, "load": 30.0, "guest_ready": 300.0},
        identity={
            "boot_id": f"b-{group}-{number}",
            "hostname": f"h-{group}-{number}",
            "session_id": f"s-{group}-{number}",
        },
        is_right=True,
        ready_ms=300.0,
        ms=350.0,
    )
    return msgspec.structs.replace(one, **changes)


def cold(group: str, number: int, **changes: Any) -> Start:
    words = {"asked": "cold", "said": "cold", "is_incoming": False, "stages_ms": {"warm": 9e3}}
    return fork(group, number, **{**words, **changes})


def refused(group: str, code: str) -> Start:
    return Start(name="nobody", group=group, asked="fork", error=code, message="why it was refused")


def evidence(scenario: str, *starts: Start, **facts: bool | int | float | str) -> Evidence:
    return Evidence(scenario=scenario, machine_kind="qemu", starts=starts, facts=facts)


def restored(group: str, number: int, **changes: Any) -> Start:
    words = {"asked": "", "intent": "k1", "events": (RESTORED,)}
    return fork(group, number, **{**words, **changes})


def booted(group: str, number: int, reason: str, **changes: Any) -> Start:
    return cold(group, number, **{"asked": "", "reason": reason, **changes})


def fell_back(group: str, number: int, reason: str, **changes: Any) -> Start:
    return booted(group, number, reason, **{"intent": "k1", "events": (FELL_BACK,), **changes})


NO_MACHINE = {"is_incoming": None, "stages_ms": {}, "identity": {}, "ms": None}
GOOD: dict[str, Evidence] = {
    "cold baseline": evidence("cold baseline", cold("cold", 1), cold("cold", 2), asked=2),
    "restore hit": evidence("restore hit", fork("fork", 1), fork("fork", 2), asked=2),
    "restore fails": evidence(
        "restore fails",
        refused("bad name", "template_not_found"),
        refused("truncated", "template_corrupt"),
        refused("changed", "template_corrupt"),
        refused("runtime fails", "vmm_failed"),
        fork("mended", 1),
        machines_left=0,
    ),
    "N-way fan-out": evidence(
        "N-way fan-out", fork("fork", 1), fork("fork", 2), asked=2, wall_ms=900.0, machines_left=0
    ),
    "mixed templates": evidence(
        "mixed templates", fork("large", 1), fork("small", 1), asked_of_each=1,
        of_another_template=0,
    ),
    "agentic RL": evidence(
        "agentic RL", fork("launch", 1), fork("reset", 1), episodes=1, wrong_evaluations=0,
        resets_that_remembered=0, descriptors_grown=0, machines_left=0,
    ),
    "cluster: cold baseline": evidence(
        "cluster: cold baseline", booted("cold", 1, "no_intent"), asked=1
    ),
    "cluster: no active set": evidence(
        "cluster: no active set", booted("no active set", 1, "not_ready"),
        phase_when_asked="Creating", built_in_s=40.0,
    ),
    "cluster: restore hit": evidence(
        "cluster: restore hit", restored("restored", 1), restored("restored", 2), asked=2
    ),
    "cluster: N-way fan-out": evidence(
        "cluster: N-way fan-out", restored("restored", 1), restored("restored", 2), asked=2,
        wall_ms=2e3,
    ),
    "cluster: store down": evidence(
        "cluster: store down", booted("store down", 1, "store_error"), restored("store back", 1),
        accepted_in_ms=210.0,
    ),
    "cluster: restore fails": evidence(
        "cluster: restore fails",
        fell_back("monitor fails", 1, "restore_failed"),
        fell_back("artifact truncated", 1, "artifact_unusable"),
        fell_back("artifact missing", 1, "artifact_missing"),
        restored("other node", 1),
        still_ready=True,
    ),
    "cluster: hash differs": evidence(
        "cluster: hash differs", booted("edited", 1, "hash_mismatch"),
        restored("rebuilt", 1, intent="k2"), is_told_stale=True, key_is_new=True,
    ),
    "cluster: node loss": evidence(
        "cluster: node loss", restored("survivor", 1), restored("after the loss", 1), asked=2,
        on_lost_node=1, survivors=1, still_ready=True, lost_that_look_ready=0, recovered_in_s=9.0,
        machines_left=0,
    ),
    "Kuasar: runtime failure": evidence(
        "Kuasar: runtime failure",
        restored("restored", 1, **NO_MACHINE),
        fell_back("restore fails", 1, "not_restored", **NO_MACHINE),
        fell_back("snapshot dropped", 1, "artifact_missing", **NO_MACHINE),
    ),
}  # fmt: skip
RULES = {one.name: one.rules for one in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_good_evidence_passes(scenario: Scenario) -> None:
    assert judge(GOOD[scenario.name], scenario.rules) == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_no_evidence_is_no_success(scenario: Scenario) -> None:
    assert judge(evidence(scenario.name), scenario.rules)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_what_broke_off_never_passes(scenario: Scenario) -> None:
    broken = msgspec.structs.replace(GOOD[scenario.name], error="the disk is full")
    assert "it broke off: the disk is full" in judge(broken, scenario.rules)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_each_start_that_is_timed_is_judged(scenario: Scenario) -> None:
    good = GOOD[scenario.name]
    for group in scenario.timed:
        lost = [refused(group, "node_full") if one.group == group else one for one in good.starts]
        assert judge(msgspec.structs.replace(good, starts=tuple(lost)), scenario.rules), group


def with_start(number: int, **changes: Any) -> Change:
    def change(good: Evidence) -> Evidence:
        starts = list(good.starts)
        starts[number] = msgspec.structs.replace(starts[number], **changes)
        return msgspec.structs.replace(good, starts=tuple(starts))

    return change


def with_facts(**facts: bool | int | float | str) -> Change:
    return lambda good: msgspec.structs.replace(good, facts={**good.facts, **facts})


def without_last(good: Evidence) -> Evidence:
    return msgspec.structs.replace(good, starts=good.starts[:-1])


SAME = {"boot_id": "b-fork-1", "hostname": "h-fork-2", "session_id": "s-fork-2"}
BAD: dict[str, tuple[str, Change, str]] = {
    "a restore hit that booted": (
        "restore hit", with_start(0, said="cold", is_incoming=False), "is cold, not restored",
    ),
    "a restore hit whose monitor loaded nothing, whatever was said": (
        "restore hit", with_start(0, is_incoming=False), "is unclear, not restored",
    ),
    "a restore hit with a boot among its stages": (
        "restore hit", with_start(0, stages_ms={"boot": 3.0}), "has a boot among its stages",
    ),
    "a restore hit that has another's identity": (
        "restore hit", with_start(1, identity=SAME), "two sessions have the same boot_id",
    ),
    "a restore hit without an identity": (
        "restore hit", with_start(1, identity={}), "a session has no boot_id",
    ),
    "a restore hit that answered nonsense": (
        "restore hit", with_start(1, is_right=False), "did not answer what its code should",
    ),
    "a fork that is missing": (
        "restore hit", without_last, "1 starts of 'fork' were recorded, 2 were asked for",
    ),
    "a cold start that was a fork": (
        "cold baseline", with_start(0, said="fork", is_incoming=True), "is restored, not cold",
    ),
    "a cold start that loaded a saved machine": (
        "cold baseline", with_start(0, is_incoming=True), "is unclear, not cold",
    ),
    "a truncated artifact that was forked all the same": (
        "restore fails", with_start(1, error="", said="fork"), "became a session, restored",
    ),
    "a changed artifact that was booted instead, in silence": (
        "restore fails", with_start(2, error="", said="cold"), "became a session, cold",
    ),
    "a runtime failure that is called something else": (
        "restore fails", with_start(3, error="internal"), "not one of ['vmm_failed']",
    ),
    "a refusal without a word why": (
        "restore fails", with_start(0, message=""), "no word why",
    ),
    "a failure that leaves a machine": (
        "restore fails", with_facts(machines_left=1), "machines left is 1, not 0",
    ),
    "a fan-out that lost one": (
        "N-way fan-out", with_facts(asked=3), "2 starts of 'fork' were recorded, 3 were asked for",
    ),
    "a fan-out without its time": (
        "N-way fan-out", with_facts(wall_ms=0), "wall ms is 0, not above 0",
    ),
    "a fork of the wrong template": (
        "mixed templates", with_facts(of_another_template=1), "of another template is 1",
    ),
    "a reset that remembered": (
        "agentic RL", with_facts(resets_that_remembered=1), "resets that remembered is 1",
    ),
    "an evaluation that was wrong": (
        "agentic RL", with_facts(wrong_evaluations=2), "wrong evaluations is 2, not 0",
    ),
    "descriptors that grew": (
        "agentic RL", with_facts(descriptors_grown=4), "descriptors grown is 4, not 0",
    ),
    "a cold start in a cluster that carries an intent": (
        "cluster: cold baseline", with_start(0, intent="k1"), "carries restore intent 'k1'",
    ),
    "a start without a store that gives no reason": (
        "cluster: store down", with_start(0, reason="no_intent"), "gives 'no_intent'",
    ),
    "a start without a store that restored all the same": (
        "cluster: store down", with_start(0, said="fork", is_incoming=True), "not cold",
    ),
    "a store that came back in vain": (
        "cluster: store down", with_start(1, said="cold", is_incoming=False), "not restored",
    ),
    "an intent that is taken for a restore": (
        "cluster: restore hit", with_start(0, said="cold", is_incoming=False), "is cold",
    ),
    "a restore without an intent": (
        "cluster: restore hit", with_start(0, intent=""), "carries no restore intent",
    ),
    "restores of two versions": (
        "cluster: restore hit", with_start(0, intent="k0"), "differ: ['k0', 'k1']",
    ),
    "a restore of which no event tells": (
        "cluster: restore hit", with_start(0, events=()), f"no event {RESTORED}",
    ),
    "a fallback of which no event tells": (
        "cluster: restore fails", with_start(1, events=(RESTORED,)), f"no event {FELL_BACK}",
    ),
    "a fallback for another reason": (
        "cluster: restore fails", with_start(2, reason="wrong_namespace"), "'wrong_namespace'",
    ),
    "a sick node that makes the other start cold": (
        "cluster: restore fails", with_start(3, said="cold", is_incoming=False), "is cold",
    ),
    "a sick node that takes the snapshot down": (
        "cluster: restore fails", with_facts(still_ready=False), "still ready is False, not True",
    ),
    "a session of the edited template that ran the old one": (
        "cluster: hash differs", with_start(0, said="fork", is_incoming=True), "not cold",
    ),
    "a rebuilt set under the old key": (
        "cluster: hash differs", with_facts(key_is_new=False), "key is new is False",
    ),
    "a set that was Ready when it should not have been": (
        "cluster: no active set", with_facts(phase_when_asked="Ready"), "is Ready, not Pending",
    ),
    "a loss that hit nobody": (
        "cluster: node loss", with_facts(on_lost_node=0), "on lost node is 0, not above 0",
    ),
    "a lost session that looks Ready": (
        "cluster: node loss", with_facts(lost_that_look_ready=1), "look ready is 1, not 0",
    ),
    "a survivor that is missing": (
        "cluster: node loss", with_facts(survivors=2), "2 were asked for",
    ),
    "a silent boot that is called a restore": (
        "Kuasar: runtime failure", with_start(1, said="fork"), "is restored, not cold",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("scenario", "change", "said"), BAD.values(), ids=BAD)
def test_it_is_judged_wrong(scenario: str, change: Change, said: str) -> None:
    problems = judge(change(GOOD[scenario]), RULES[scenario])
    assert [text for text in problems if said in text], problems


@pytest.mark.parametrize(
    ("start", "how"),
    [
        (fork("a", 1), How.RESTORED),
        (cold("a", 1), How.COLD),
        (refused("a", "node_full"), How.REFUSED),
        (fork("a", 1, is_incoming=None), How.RESTORED),
        (fork("a", 1, said="unknown", is_incoming=None), How.UNCLEAR),
        (fork("a", 1, is_incoming=False), How.UNCLEAR),
        (cold("a", 1, is_incoming=True), How.UNCLEAR),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_two_witnesses_have_to_agree(start: Start, how: How) -> None:
    assert how_started(start) is how


CHANGES: list[dict[str, Any]] = [
    {"error": "internal", "message": "", "said": ""},
    {"said": "cold", "is_incoming": False},
    {"said": "fork", "is_incoming": True},
    {"error": "", "said": "fork"},
    {"intent": ""},
    {"intent": "another"},
    {"events": ()},
    {"identity": {}},
]


def spoilt(good: Evidence) -> Iterator[Evidence]:
    """The evidence with one thing wrong, in many ways."""
    yield evidence(good.scenario)
    yield msgspec.structs.replace(good, facts={})
    for number in range(len(good.starts)):
        for changes in CHANGES:
            yield with_start(number, **changes)(good)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_there_is_no_rule_that_nothing_breaks(scenario: Scenario) -> None:
    bad = list(spoilt(GOOD[scenario.name]))
    idle = [
        number for number, rule in enumerate(scenario.rules) if not any([*rule(one)] for one in bad)
    ]
    assert idle == []
