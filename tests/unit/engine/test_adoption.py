"""What a starting daemon decides about what it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.engine.adoption import (
    Action,
    AdoptSession,
    FailTemplate,
    ForgetVm,
    KillVm,
    plan_adoption,
    plan_sweep,
)
from agentd.engine.journal_records import (
    JournalState,
    Opened,
    Record,
    Role,
    SessionFacts,
    TemplateBegun,
    TemplateFailed,
    VmEnding,
    VmIntended,
    VmRunning,
    replay,
)
from agentd.vmm.vmm import VmRecord
from agentd.wire.api import SessionMode

NOW = 1000.0
FACTS = SessionFacts("py", SessionMode.FORK, 9.0, 11.0, 60.0, "host", ends_clock_s=1100.0)
EXPIRED = SessionFacts("py", SessionMode.FORK, 8.0, 9e9, 60.0, "host", ends_clock_s=1000.0)
INTENDED = VmIntended("s", Role.SESSION, "/run/vms/s")
RUNNING = VmRunning("s", 7, 70, FACTS)
FOUND = VmRecord("s", Path("/run/vms/s"), 7, 70)
OTHER = VmRecord("s", Path("/run/vms/s"), 8, 80)
BEGUN = TemplateBegun("t", "t-1", "i", 1, 1, 900.0)

KILL, FORGET, ADOPT = "kill", "forget", "adopt"


def plan(
    records: list[Record], found: list[VmRecord], dirs: list[str], boot: str = "b"
) -> list[Action]:
    state = replay([Opened("b"), *records])
    return plan_adoption(state, found, dirs, clock_s=NOW, boot_id=boot)


@pytest.mark.parametrize(
    ("records", "found", "dirs", "expected"),
    [
        pytest.param([], [], [], [], id="nothing"),
        pytest.param(
            [INTENDED, RUNNING], [FOUND], ["s"], [AdoptSession("s", FOUND, FACTS)], id="ready"
        ),
        pytest.param(
            [INTENDED, RUNNING],
            [],
            ["s"],
            [ForgetVm("s", "vm_died_while_agentd_was_down", FACTS)],
            id="died meanwhile",
        ),
        pytest.param(
            [INTENDED, RUNNING],
            [OTHER],
            ["s"],
            [KillVm(OTHER, "not_the_journaled_one"), ForgetVm("s", "not_the_journaled_one", FACTS)],
            id="another process under its id",
        ),
        pytest.param(
            [INTENDED, RUNNING],
            [FOUND, OTHER],
            ["s"],
            [AdoptSession("s", FOUND, FACTS), KillVm(OTHER, "not_the_journaled_one")],
            id="itself and another process",
        ),
        pytest.param(
            [INTENDED, RUNNING, VmEnding("s", "deleted")],
            [FOUND],
            ["s"],
            [KillVm(FOUND, "deleted"), ForgetVm("s", "deleted", FACTS)],
            id="was being ended",
        ),
        pytest.param(
            [INTENDED, VmRunning("s", 7, 70, EXPIRED)],
            [FOUND],
            ["s"],
            [KillVm(FOUND, "expired"), ForgetVm("s", "expired", EXPIRED)],
            id="expired meanwhile",
        ),
        pytest.param(
            [INTENDED],
            [FOUND],
            ["s"],
            [KillVm(FOUND, "half_started"), ForgetVm("s", "half_started")],
            id="half started",
        ),
        pytest.param(
            [INTENDED],
            [],
            [],
            [ForgetVm("s", "vm_died_while_agentd_was_down")],
            id="intended only",
        ),
        pytest.param(
            [INTENDED, VmRunning("s", 7, 70)],
            [FOUND],
            ["s"],
            [KillVm(FOUND, "parked"), ForgetVm("s", "parked")],
            id="parked",
        ),
        pytest.param(
            [], [FOUND], ["s"], [KillVm(FOUND, "stray"), ForgetVm("s", "stray")], id="stray machine"
        ),
        pytest.param(
            [],
            [],
            ["s"],
            [ForgetVm("s", "vm_died_while_agentd_was_down")],
            id="left directory",
        ),
        pytest.param([BEGUN], [], [], [FailTemplate(BEGUN)], id="half-made template"),
        pytest.param(
            [BEGUN, TemplateFailed("t", "c", "m", "h")], [], [], [], id="template that failed"
        ),
    ],
)
def test_plan(
    records: list[Record], found: list[VmRecord], dirs: list[str], expected: list[Action]
) -> None:
    assert plan(records, found, dirs) == expected


def test_pids_of_another_boot_mean_nothing() -> None:
    actions = plan([INTENDED, RUNNING], [FOUND], ["s"], boot="after a reboot")
    assert [type(action) for action in actions] == [KillVm, ForgetVm]


def test_the_sweep_ends_what_this_daemon_did_not_start() -> None:
    assert plan_sweep({"s"}, [FOUND]) == []
    assert plan_sweep(set(), [FOUND]) == [KillVm(FOUND, "stray")]


def test_an_empty_state_of_an_unknown_boot_is_no_reason_to_act() -> None:
    assert plan_adoption(JournalState(), [], [], clock_s=NOW, boot_id="b") == []
