"""A scenario that fails keeps no other from running; a stage is taken down on every path."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from bench.validate import node_stage
from bench.validate.evidence import Record, Start
from bench.validate.judge import is_fact
from bench.validate.run import Performer, Verdict, leaving_nothing, run_plan
from bench.validate.scenario import Scenario, Stage

Act = Callable[[Record], None]


@dataclass
class Acted:
    """A stage that notes what is done to it."""

    acts: dict[str, Act]
    log: list[str] = field(default_factory=list)

    def perform(self, name: str, record: Record) -> None:
        self.log.append(name)
        self.acts[name](record)

    @contextmanager
    def opened(self) -> Iterator[Performer]:
        self.log.append("open")
        try:
            yield self
        finally:
            self.log.append("close")


def scenario(name: str, stage: Stage = Stage.NODE) -> Scenario:
    return Scenario(name, stage, "set-up", "expected", (is_fact("good", True),), ())


def good(record: Record) -> None:
    record.note(good=True)


def bad(record: Record) -> None:
    record.note(good=False)


def broken(record: Record) -> None:
    record.add(Start(name="one", group="seen before"))
    raise OSError("the disk is full")


def interrupted(record: Record) -> None:
    raise KeyboardInterrupt


def say(_text: str) -> None:
    """Nobody listens."""


def test_verdicts_come_from_the_evidence() -> None:
    stage = Acted({"a": good, "b": bad})
    outcomes, troubles = run_plan([scenario("a"), scenario("b")], {Stage.NODE: stage.opened}, say)
    assert [one.verdict for one in outcomes] == [Verdict.PASSED, Verdict.FAILED]
    assert outcomes[1].problems == ("good is False, not True",)
    assert troubles == []


def test_what_breaks_off_keeps_its_evidence_and_stops_no_other() -> None:
    stage = Acted({"a": broken, "b": good})
    (first, second), _ = run_plan([scenario("a"), scenario("b")], {Stage.NODE: stage.opened}, say)
    assert (first.verdict, second.verdict) == (Verdict.FAILED, Verdict.PASSED)
    assert first.evidence.error == "OSError: the disk is full"
    assert [one.group for one in first.evidence.starts] == ["seen before"]
    assert stage.log == ["open", "a", "b", "close"]


def test_a_stage_that_cannot_be_set_up_costs_its_own_scenarios_alone() -> None:
    @contextmanager
    def unable() -> Iterator[Performer]:
        raise OSError("no KVM")
        yield

    stage = Acted({"b": good})
    outcomes, troubles = run_plan(
        [scenario("a", Stage.CLUSTER), scenario("b")],
        {Stage.CLUSTER: unable, Stage.NODE: stage.opened},
        say,
    )
    assert [one.verdict for one in outcomes] == [Verdict.NOT_RUN, Verdict.PASSED]
    assert troubles == ["stage cluster: OSError: no KVM"]
    assert outcomes[0].problems == ("stage cluster: OSError: no KVM",)


def test_each_stage_is_set_up_once() -> None:
    stages = {Stage.NODE: Acted({"a": good, "c": good}), Stage.CLUSTER: Acted({"b": good})}
    run_plan(
        [scenario("a"), scenario("b", Stage.CLUSTER), scenario("c")],
        {name: stage.opened for name, stage in stages.items()},
        say,
    )
    assert stages[Stage.NODE].log == ["open", "a", "c", "close"]
    assert stages[Stage.CLUSTER].log == ["open", "b", "close"]


def test_ctrl_c_takes_the_stage_down_and_goes_on() -> None:
    stage = Acted({"a": interrupted, "b": good})
    with pytest.raises(KeyboardInterrupt):
        run_plan([scenario("a"), scenario("b")], {Stage.NODE: stage.opened}, say)
    assert stage.log == ["open", "a", "close"]


def test_what_a_stage_leaves_is_trouble_though_its_scenarios_passed() -> None:
    @contextmanager
    def untidy() -> Iterator[Performer]:
        with leaving_nothing(lambda: ["4711 qemu"]):
            yield Acted({"a": good})

    outcomes, troubles = run_plan([scenario("a")], {Stage.NODE: untidy}, say)
    assert [one.verdict for one in outcomes] == [Verdict.PASSED]
    assert troubles == ["stage node: StageLeftError: left behind: 4711 qemu"]


def test_a_process_that_outlives_its_node_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_stage, "ENDED_S", 0.0)
    word = f"left-behind-{uuid.uuid4().hex}"
    with subprocess.Popen([sys.executable, "-c", "input()", word], stdin=subprocess.PIPE) as left:
        assert node_stage.find_left([word]) == [f"process {left.pid}"]
        left.kill()
    assert node_stage.find_left([word]) == []
