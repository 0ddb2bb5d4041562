"""Where the time of one start went."""

from __future__ import annotations

import pytest

from agentd.cli.waterfall import draw_bar, plan_waterfall

MONITOR = {"spawn": 1.0, "load": 30.0, "resume": 31.0, "inject": 100.0, "guest_ready": 200.0}
BEFORE = {"template": 0.5, "slot": 50.5, "prepared": 52.0}
WHOLE = {**BEFORE, **MONITOR, "total": 255.0}


def spans(stages_ms: dict[str, float]) -> list[tuple[str, float, float]]:
    return [(bar.stage, bar.begin_ms, bar.end_ms) for bar in plan_waterfall(stages_ms)]


def test_each_stage_begins_when_the_one_before_it_is_over() -> None:
    assert spans(WHOLE) == [
        ("template", 0.0, 0.5),
        ("slot", 0.5, 50.5),
        ("prepared", 50.5, 52.0),
        ("spawn", 52.0, 53.0),
        ("load", 53.0, 82.0),
        ("resume", 82.0, 83.0),
        ("inject", 83.0, 152.0),
        ("guest_ready", 152.0, 252.0),
        ("handover", 252.0, 255.0),
    ]


def test_the_bars_cover_the_whole_without_holes() -> None:
    bars = plan_waterfall(WHOLE)
    assert sum(bar.took_ms for bar in bars) == pytest.approx(WHOLE["total"])
    assert all(bar.what for bar in bars)


def test_a_stage_that_was_over_before_its_forerunner_ran_beside_it() -> None:
    bars = plan_waterfall({**WHOLE, "resume": 20.0})
    resume = next(bar for bar in bars if bar.stage == "resume")
    assert (resume.begin_ms, resume.end_ms, resume.beside) == (53.0, 72.0, "load")
    inject = next(bar for bar in bars if bar.stage == "inject")
    assert inject.begin_ms == 82.0


def test_what_an_older_daemon_did_not_note_is_a_bar_with_a_name() -> None:
    assert spans({**MONITOR, "total": 210.0})[:2] == [
        ("unrecorded", 0.0, 10.0),
        ("spawn", 10.0, 11.0),
    ]


def test_of_a_parked_fork_only_the_whole_is_known() -> None:
    assert spans({"total": 3.0}) == [("unrecorded", 0.0, 3.0)]


def test_a_session_without_stages_has_no_bars() -> None:
    assert plan_waterfall({}) == []


def test_bars_stand_one_below_the_other() -> None:
    bars = plan_waterfall(WHOLE)
    drawn = [draw_bar(bar, 255.0, width=51) for bar in bars]
    assert {len(one) for one in drawn} == {51}
    assert drawn[1] == "#" * 10 + "." * 41
    assert drawn[0] == "|" + "." * 50
    assert drawn[7] == "." * 30 + "#" * 20 + "."


def test_a_stage_that_ran_beside_another_is_drawn_otherwise() -> None:
    bars = plan_waterfall({**WHOLE, "resume": 20.0})
    assert "=" in draw_bar(next(bar for bar in bars if bar.beside), 255.0)


def test_nothing_is_drawn_of_no_time() -> None:
    (bar,) = plan_waterfall({"spawn": 0.0})
    assert draw_bar(bar, 0.0, width=4) == "|..."
