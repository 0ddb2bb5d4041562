"""One condition says whether sessions can be forked on a node, again and again."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from agentd.kuasar.node_config import Finding, Level
from agentd.kuasar.probe import Probe, Standing
from agentd.node.sandboxer_condition import CONDITION, judge_sandboxer, stamp_condition

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
EXCLUSIVE = Finding("lease_mode", Level.WARN, "'exclusive': serves one session", "set shared")
SILENT = Finding("fallback_to_fresh_boot", Level.WARN, "boots cold, nothing says so")
NEVER = Finding("enable_warmfork_restore", Level.FAIL, "never restored", "set it")
UNREAD = Finding("config_file", Level.WARN, "there is no such file", "mount it")


def found(standing: Standing = Standing.GRPC, hint: str = "") -> Probe:
    return Probe(standing, "/run/s.sock: what was seen", hint, "")


def judged(*findings: Finding, standing: Standing = Standing.GRPC) -> tuple[str, str, str]:
    condition = judge_sandboxer(found(standing), findings)
    assert condition.type == CONDITION
    return condition.status, condition.reason, condition.message


def test_a_sandboxer_that_can_be_used_is_true() -> None:
    assert judged() == ("True", "Usable", "/run/s.sock: what was seen")


@pytest.mark.parametrize("standing", list(Standing))
def test_only_a_form_that_is_spoken_is_true(standing: Standing) -> None:
    status, reason, _ = judged(standing=standing)
    assert (status == "True") is (standing in (Standing.JSON, Standing.GRPC))
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", reason)


def test_what_keeps_it_away_is_the_reason_with_what_to_do() -> None:
    condition = judge_sandboxer(found(Standing.DEAD_SOCKET, "mount the directory"), [NEVER])
    assert (condition.status, condition.reason) == ("False", "DeadSocket")
    assert condition.message == "/run/s.sock: what was seen (mount the directory)"


def test_forks_for_one_session_alone_are_false() -> None:
    status, reason, message = judged(SILENT, EXCLUSIVE)
    assert (status, reason) == ("False", "LeaseMode")
    assert message.startswith("lease_mode: 'exclusive': serves one session (set shared); ")
    assert "fallback_to_fresh_boot" in message


def test_forks_that_never_come_are_false() -> None:
    assert judged(SILENT, NEVER)[:2] == ("False", "EnableWarmforkRestore")


def test_a_warning_that_spoils_nothing_is_told_in_the_message() -> None:
    status, reason, message = judged(SILENT)
    assert (status, reason) == ("True", "UsableWithWarnings")
    assert "boots cold, nothing says so" in message


def test_settings_that_cannot_be_read_leave_it_unknown() -> None:
    status, reason, message = judged(UNREAD)
    assert (status, reason) == ("Unknown", "SettingsUnknown")
    assert "mount it" in message


def test_a_message_of_any_length_fits() -> None:
    assert len(judged(*(Finding("k", Level.WARN, "x" * 500) for _ in range(9)))[2]) == 1024


def node(**condition: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    mine = [{"type": CONDITION, **condition}] if condition else []
    return {"metadata": {"name": "n"}, "status": {"conditions": [ready, *mine]}}


def test_a_transition_is_dated_when_the_status_changes() -> None:
    wanted = judge_sandboxer(found(), [])
    before = {"lastTransitionTime": "2025-01-01T00:00:00Z"}
    same = stamp_condition(wanted, node(status="True", **before), NOW)
    changed = stamp_condition(wanted, node(status="False", **before), NOW)
    first = stamp_condition(wanted, node(), NOW)
    assert same["lastTransitionTime"] == "2025-01-01T00:00:00Z"
    assert changed["lastTransitionTime"] == "2026-01-01T12:00:00Z"
    assert first["lastTransitionTime"] == "2026-01-01T12:00:00Z"
    assert {one["lastHeartbeatTime"] for one in (same, changed, first)} == {"2026-01-01T12:00:00Z"}


def test_a_node_that_has_no_status_yet_gets_one() -> None:
    assert stamp_condition(judge_sandboxer(found(), []), {"metadata": {}}, NOW)["status"] == "True"
