"""What a run does is decided by its seed, and reaches every step."""

from __future__ import annotations

from collections import Counter

from .plan import DIALECTS, RETIRED, SERVING, STARTING, STEPS, plan_deaths, plan_life


def test_thousand_deaths_come_to_each_step_at_least_fifty_times() -> None:
    kinds = Counter(death.step for death in plan_deaths(7, 1000))
    assert kinds.total() - kinds[RETIRED] == 1000
    assert min(kinds[step] for step in (*STEPS, SERVING, STARTING)) >= 50


def test_few_deaths_come_to_each_step_too() -> None:
    kinds = Counter(death.step for death in plan_deaths(7, 40))
    assert kinds.total() - kinds[RETIRED] == 40
    assert set(STEPS) <= set(kinds)


def test_same_seed_is_the_same_plan() -> None:
    assert plan_deaths(3, 100) == plan_deaths(3, 100)
    assert plan_deaths(3, 100) != plan_deaths(4, 100)
    assert plan_life(3, 1, 2) == plan_life(3, 1, 2)
    assert plan_life(3, 1, 2).seed != plan_life(3, 1, 3).seed


def test_only_named_steps_kill_themselves() -> None:
    for death in plan_deaths(5, 200):
        assert bool(death.kill) == (death.step in STEPS)
        assert death.passes >= 1


def test_slots_hold_every_dialect_with_and_without_a_holding_monitor() -> None:
    lives = [plan_life(1, slot, 0) for slot in range(8)]
    assert {(life.dialect, life.is_holding) for life in lives} == {
        (dialect, is_holding) for dialect in DIALECTS for is_holding in (True, False)
    }
