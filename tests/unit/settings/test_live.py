"""A reload takes over what may change, names the rest, and nothing in between."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentd.settings import RELOADABLE, Settings, load_settings, plan_reload
from agentd.typed_settings.group import keys

OPERATOR = Path(__file__).parents[3] / "docs/operator.md"


def settings(**environ: str) -> Settings:
    return load_settings(None, {f"SNAPSTART_{k}": v for k, v in environ.items()}, uid=0)


def test_what_may_change_is_taken_over_and_the_rest_is_named() -> None:
    old = settings()
    new = settings(
        ADMISSION__MAX_SESSIONS="3", LOG__LEVEL="debug", API__SOCKET_MODE="0600", WARM__COUNT="2"
    )
    plan = plan_reload(old, new)
    assert set(plan.changed) == {"admission.max_sessions", "log.level", "warm.count"}
    assert plan.needs_restart == ("api.socket_mode",)
    assert plan.settings.admission.max_sessions == 3
    assert plan.settings.api == old.api


def test_a_reload_without_a_change_changes_nothing() -> None:
    plan = plan_reload(settings(), settings())
    assert (plan.settings, plan.changed, plan.needs_restart) == (settings(), (), ())


def test_what_waits_for_a_restart_is_named_again_by_the_next_reload() -> None:
    new = settings(MONITOR__ACCEL="tcg")
    first = plan_reload(settings(), new)
    assert plan_reload(first.settings, new).needs_restart == ("monitor.accel",)


def test_every_reloadable_key_is_a_setting() -> None:
    known = {f"{group}.{name}" for group, fields in keys(Settings).items() for name in fields}
    assert known >= RELOADABLE


@pytest.mark.parametrize("group", ["admission", "lifetime", "deadlines", "log"])
def test_the_operator_page_says_which_groups_can_be_reloaded(group: str) -> None:
    (told,) = re.findall(r"These settings are taken over(.*?)Others", OPERATOR.read_text(), re.S)
    all_of_it = {f"{group}.{name}" for name in keys(Settings)[group]}
    left = {key.partition(".")[2] for key in all_of_it - RELOADABLE}
    assert f"`[{group}]`" in told
    assert left == ({"concurrent_forks"} if group == "admission" else set())


def test_the_operator_page_names_the_single_keys_that_can_be_reloaded() -> None:
    (told,) = re.findall(r"These settings are taken over(.*?)Others", OPERATOR.read_text(), re.S)
    groups = {"admission", "lifetime", "deadlines", "log"}
    single = {key for key in RELOADABLE if key.partition(".")[0] not in groups}
    assert set(re.findall(r"`(\w+\.\w+)`", told)) == single
