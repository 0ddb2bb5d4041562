"""The inject protocol as a table of what comes in and what is decided."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.guest import wire
from agentd.guest.http_auth import KeyRefusedError
from agentd.guest.prepare import Plan
from agentd.guest.warmfork import (
    Action,
    Apply,
    Conversation,
    Exit,
    Hangup,
    Release,
    Send,
    State,
    WarmFork,
)

SECOND = 10**9
PREPARE = {"type": "PREPARE", "task_id": "t1", "env_overrides": {"A": "b"}, "context": ""}


def message(**members: Any) -> bytes:
    return wire.encode_message(members)


def started(now_ns: int = 0) -> tuple[WarmFork, Conversation]:
    fork = WarmFork(workspace_root="/workspace")
    return fork, fork.connect(now_ns)[0]


def sent(actions: list[Action]) -> list[Any]:
    found = []
    for action in actions:
        if isinstance(action, Send):
            reader = wire.MessageReader()
            reader.feed(action.data)
            found.append(reader.next())
    return found


def test_capabilities_come_first_on_every_connection() -> None:
    fork = WarmFork(workspace_root="/workspace")
    for _ in range(3):
        conversation, actions = fork.connect(0)
        assert sent(actions) == [
            {
                "type": "CAPABILITIES",
                "protocol_version": "1",
                "supported_features": ["prepare", "commit", "cancel"],
            }
        ]
        assert conversation.eof() == [Hangup("probe")]
    assert fork.state is State.READY


def test_prepare_then_commit_applies_the_plan_and_only_then_says_started() -> None:
    fork, conversation = started()
    actions = conversation.receive(message(**PREPARE), 5)
    assert sent(actions) == [{"type": "READY"}]
    assert len(actions) == 1
    (action,) = conversation.receive(message(type="COMMIT"), 6)
    assert isinstance(action, Apply)
    assert (action.plan.task_id, dict(action.plan.environment)) == ("t1", {"A": "b"})
    assert fork.state is State.COMMITTING
    actions = conversation.applied()
    assert sent(actions) == [{"type": "STARTED"}]
    assert isinstance(actions[-1], Release)
    assert fork.state is State.STARTED


def test_commit_alone_starts_without_identity() -> None:
    _, conversation = started()
    (action,) = conversation.receive(message(type="COMMIT"), 0)
    assert isinstance(action, Apply)
    assert action.plan.task_id == ""


def test_an_empty_task_id_is_the_autonomous_mode_too() -> None:
    _, conversation = started()
    actions = conversation.receive(message(type="PREPARE", task_id=""), 0)
    assert sent(actions) == [{"type": "READY"}]


def test_a_failed_effect_ends_the_runtime_without_started() -> None:
    _, conversation = started()
    conversation.receive(message(type="COMMIT"), 0)
    assert conversation.failed("no entropy") == [Exit(1, "no entropy")]


@pytest.mark.parametrize("is_prepared", [False, True], ids=["probed", "holding"])
def test_cancel_exits_with_status_zero(is_prepared: bool) -> None:
    _, conversation = started()
    if is_prepared:
        conversation.receive(message(**PREPARE), 0)
    (action,) = conversation.receive(message(type="CANCEL", reason="rollback"), 0)
    assert isinstance(action, Exit)
    assert action.status == 0


def test_a_connection_that_ends_after_ready_is_fatal() -> None:
    fork, conversation = started()
    conversation.receive(message(**PREPARE), 0)
    (action,) = conversation.eof()
    assert isinstance(action, Exit)
    assert action.status == 1
    assert fork.state is State.CANCELLED


def test_a_partial_frame_is_not_a_probe() -> None:
    fork, conversation = started()
    conversation.receive(message(**PREPARE)[:7], 0)
    assert conversation.eof() == [Hangup("the connection ended")]
    assert fork.state is State.READY


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(message(type="HELLO"), id="unknown-type"),
        pytest.param(message(), id="no-type"),
        pytest.param(b"\0\0\0\2[]", id="not-an-object"),
        pytest.param(b"\0\0\0\2{x", id="not-json"),
        pytest.param(b"\0\0\0\1\xff", id="not-utf8"),
        pytest.param((4 * 1024 * 1024 + 1).to_bytes(4, "big"), id="too-long-is-refused-unread"),
    ],
)
def test_a_broken_message_closes_the_connection_and_changes_nothing(data: bytes) -> None:
    fork, conversation = started()
    (action,) = conversation.receive(data, 0)
    assert isinstance(action, Hangup)
    assert fork.state is State.READY
    assert isinstance(fork.connect(0)[0].receive(message(type="COMMIT"), 0)[0], Apply)


def test_a_broken_message_after_ready_is_fatal() -> None:
    _, conversation = started()
    conversation.receive(message(**PREPARE), 0)
    (action,) = conversation.receive(message(type="NONSENSE"), 0)
    assert isinstance(action, Exit)
    assert action.status == 1


def test_a_silent_probe_is_closed_after_ten_seconds() -> None:
    _, conversation = started(now_ns=SECOND)
    assert conversation.tick(11 * SECOND - 1) == []
    assert isinstance(conversation.tick(11 * SECOND)[0], Hangup)


def test_silence_between_ready_and_commit_is_fatal_after_thirty_seconds() -> None:
    _, conversation = started()
    conversation.receive(message(**PREPARE), SECOND)
    assert conversation.tick(31 * SECOND - 1) == []
    (action,) = conversation.tick(31 * SECOND)
    assert isinstance(action, Exit)
    assert action.status == 1


def test_unknown_members_are_ignored() -> None:
    _, conversation = started()
    actions = conversation.receive(message(**PREPARE, future={"x": 1}), 0)
    assert sent(actions) == [{"type": "READY"}]


def test_a_second_host_cannot_prepare_an_instance_that_is_held() -> None:
    fork, first = started()
    first.receive(message(**PREPARE), 0)
    second, _ = fork.connect(0)
    actions = second.receive(message(**PREPARE), 0)
    assert sent(actions)[0]["reason"] == "resource_exhausted"
    assert isinstance(first.receive(message(type="COMMIT"), 0)[0], Apply)


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=8))
def test_messages_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    _, conversation = started()
    data = message(**PREPARE) + message(type="COMMIT")
    actions: list[Action] = []
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        actions += conversation.receive(data[at : max(at, cut)], 0)
        at = max(at, cut)
    assert [type(action) for action in actions] == [Send, Apply]


CONTEXT_MEMBERS = {
    "relative-workspace": {"workspace": "workspace"},
    "workspace-outside": {"workspace": "/etc"},
    "workspace-escapes": {"workspace": "/workspace/../etc"},
    "workspace-sibling": {"workspace": "/workspace2"},
    "hostname-with-slash": {"hostname": "a/b"},
    "hostname-too-long": {"hostname": "a" * 65},
    "machine-id-upper-case": {"machine_id": "A" * 32},
    "machine-id-short": {"machine_id": "a" * 31},
    "entropy-short": {"entropy": base64.b64encode(bytes(31)).decode()},
    "entropy-not-base64": {"entropy": "###"},
    "file-outside": {"files": {"../x": ""}},
    "file-absolute": {"files": {"/x": ""}},
    "file-not-base64": {"files": {"x": "#"}},
    "metadata-not-text": {"metadata": {"a": 1}},
    "session-id-with-space": {"session_id": "a b"},
}


@pytest.mark.parametrize("context", CONTEXT_MEMBERS.values(), ids=CONTEXT_MEMBERS)
def test_a_wrong_context_is_rejected_before_ready(context: dict[str, Any]) -> None:
    assert reject(context=json.dumps(context)) == "parse_error"


HEAD = "-----BEGIN PUBLIC KEY-----"


@pytest.mark.parametrize("key", ["", 7, None, "garbage", HEAD + "A" * 16384])
def test_a_key_of_a_wrong_form_is_rejected(key: object) -> None:
    assert reject(context=json.dumps({"auth_public_key": key})) == "parse_error"


def test_a_key_that_the_image_cannot_use_is_rejected_and_the_instance_waits() -> None:
    def check(key: str) -> None:
        raise KeyRefusedError(f"no {key[:10]}")

    fork = WarmFork(workspace_root="/workspace", check_key=check)
    keyed = PREPARE | {"context": json.dumps({"auth_public_key": HEAD})}
    (answer,) = sent(fork.connect(0)[0].receive(message(**keyed), 0))
    assert answer["message"] == "context.auth_public_key: no -----BEGIN"
    assert fork.state is State.READY
    assert sent(fork.connect(0)[0].receive(message(**PREPARE), 0)) == [{"type": "READY"}]


def test_the_variable_of_the_key_is_taken_only_empty_and_beside_the_key() -> None:
    fork = WarmFork(workspace_root="/workspace", check_key=lambda _key: None)
    context = json.dumps({"auth_public_key": f"{HEAD}\n"})
    for value, is_taken in (("", True), (HEAD, False)):
        conversation, _ = fork.connect(0)
        overrides = {"A": "b", "PICOD_AUTH_PUBLIC_KEY": value}
        keyed = message(**PREPARE | {"context": context, "env_overrides": overrides})
        actions = conversation.receive(keyed + message(type="COMMIT"), 0)
        plans = [action.plan for action in actions if isinstance(action, Apply)]
        assert len(plans) == is_taken
        assert all((plan.auth_key, plan.environment) == (HEAD, {"A": "b"}) for plan in plans)
        fork.state = State.READY


REFUSED_VARIABLES = [
    *("LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "PYTHONHASHSEED", "BASH_ENV"),
    *("PICOD_AUTH_PUBLIC_KEY", "AGENTCUBE_SESSION_GATE", "AGENTCUBE_SNAPSTART_BUILD"),
    *("AGENTCUBE_INJECT_SOCKET_PATH", "WARMFORK_READINESS_SOCKET", "1A", "A-B", "", "A=B"),
]


@pytest.mark.parametrize("name", REFUSED_VARIABLES)
def test_a_dangerous_variable_is_rejected(name: str) -> None:
    assert reject(env_overrides={name: "x"}) == "parse_error"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        pytest.param({"task_id": 7}, "invalid_task_id", id="task-id-number"),
        pytest.param({"task_id": "a b"}, "invalid_task_id", id="task-id-space"),
        pytest.param({"task_id": "x" * 254}, "invalid_task_id", id="task-id-long"),
        pytest.param({"context": 7}, "parse_error", id="context-not-text"),
        pytest.param({"context": "[1]"}, "parse_error", id="context-not-object"),
        pytest.param({"context": "{"}, "parse_error", id="context-not-json"),
        pytest.param({"env_overrides": ["A"]}, "parse_error", id="env-not-object"),
        pytest.param({"env_overrides": {"A": 1}}, "parse_error", id="env-not-text"),
        pytest.param({"env_overrides": {"A": "\0"}}, "parse_error", id="env-nul"),
        pytest.param({"env_overrides": {"A": "x" * 2**20}}, "resource_exhausted", id="env-big"),
        pytest.param(
            {"context": json.dumps({"files": {"f": base64.b64encode(bytes(2**20 + 1)).decode()}})},
            "resource_exhausted",
            id="files-big",
        ),
    ],
)
def test_a_wrong_prepare_is_rejected_with_its_reason(members: dict[str, Any], reason: str) -> None:
    assert reject(**members) == reason


def reject(**members: Any) -> str:
    """The reason of the REJECT; the instance goes on waiting."""
    fork, conversation = started()
    actions = conversation.receive(message(**{**PREPARE, **members}), 0)
    (answer,) = sent(actions)
    assert answer["type"] == "REJECT"
    assert isinstance(actions[-1], Hangup)
    assert fork.state is State.READY
    return str(answer["reason"])


def test_the_wall_clock_is_corrected_by_half_of_the_way() -> None:
    _, conversation = started()
    conversation.receive(message(**PREPARE), 1000)
    (action,) = conversation.receive(
        message(type="COMMIT", wall_clock_ns=5_000_000, held_ns=300), 2000
    )
    assert isinstance(action, Apply)
    assert action.plan.wall_clock_ns == 5_000_000 + 350


def test_what_the_guest_did_before_ready_left_is_no_part_of_the_way() -> None:
    _, conversation = started()
    conversation.sending(500)  # CAPABILITIES
    conversation.receive(message(**PREPARE), 1000)
    conversation.sending(81_000)
    (action,) = conversation.receive(
        message(type="COMMIT", wall_clock_ns=5_000_000, held_ns=300), 82_000
    )
    assert isinstance(action, Apply)
    assert action.plan.wall_clock_ns == 5_000_000 + 350


def test_what_passes_after_commit_does_not_set_the_clock_back() -> None:
    plan = Plan(task_id="t", wall_clock_ns=1_000_000, wall_clock_at_ns=2_000)
    assert plan.wall_clock_now(2_700) == 1_000_700
    assert Plan(task_id="t").wall_clock_now(2_700) is None


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, 2**63])
def test_a_wrong_wall_clock_is_fatal(value: object) -> None:
    _, conversation = started()
    conversation.receive(message(**PREPARE), 0)
    (action,) = conversation.receive(message(type="COMMIT", wall_clock_ns=value), 0)
    assert isinstance(action, Exit)
    assert action.status == 1
