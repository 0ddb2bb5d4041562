"""What a guest sends is decoded strictly, or refused."""

from __future__ import annotations

import json

import pytest

from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError, UsageError
from agentd.warmfork.refusals import refusal
from agentd.warmfork.stream import encode_message
from agentd.wire.guest import (
    Done,
    End,
    ExecuteRequest,
    Failed,
    GuestStatus,
    Raised,
    Stdout,
    decode,
    decode_event,
    decode_reply,
)


def test_unknown_members_are_ignored() -> None:
    assert decode_event(b'{"type":"stdout","text":"a","new":[1]}') == Stdout(text="a")


def test_error_is_an_exception_of_user_code() -> None:
    body = b'{"type":"error","name":"E","value":"v","traceback":["t"]}'
    assert decode_event(body) == Raised(name="E", value="v", traceback=["t"])


def test_lone_surrogates_become_question_marks() -> None:
    body = json.dumps({"type": "stdout", "text": "a\udcffb"}).encode()
    assert decode_event(body) == Stdout(text="a?b")


def test_pair_of_surrogates_is_one_character() -> None:
    assert decode_event(b'{"type":"stdout","text":"\\ud83d\\ude00"}') == Stdout(text="\U0001f600")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"type":"stdout","text":"\xff"}',
        b'{"type":"stdout","text":1}',
        b'{"type":"stdout"}',
        b'{"type":"nonsense"}',
        b'{"text":"a"}',
        b'{"type":"end","status":"ok","duration_s":-1}',
        b'{"type":"end","status":"ok","duration_s":NaN}',
        b'{"type":"result","data":{"a":[1]}}',
        b'{"type":"stdout","text":"a","x":' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:50]),
)
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="a message of"):
        decode_event(body)


def test_refusal_is_found_where_another_message_is_due() -> None:
    body = b'{"type":"failed","code":"not_found","message":"m"}'
    assert decode_reply(body, Done) == Failed(code="not_found", message="m")
    assert decode_reply(body, GuestStatus) == Failed(code="not_found", message="m")
    assert decode_event(body) == Failed(code="not_found", message="m")


def test_problem_of_the_expected_message_is_the_one_told() -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        decode_reply(b'{"type":"other"}', GuestStatus)


def test_integers_are_not_taken_for_truth() -> None:
    with pytest.raises(ValueError, match="stdout_truncated"):
        decode(b'{"type":"end","status":"ok","stdout_truncated":1}', End)


@pytest.mark.parametrize(
    ("code", "kind", "ours"),
    [
        ("unknown_service", PeerError, ErrorCode.GUEST_PROTOCOL),
        ("flow_control", PeerError, ErrorCode.GUEST_PROTOCOL),
        ("too_many_streams", TransientError, ErrorCode.NODE_FULL),
        ("gate_closed", PeerError, ErrorCode.GUEST_NOT_READY),
        ("gate_open", PeerError, ErrorCode.GUEST_REJECTED),
        ("not_found", UsageError, ErrorCode.FILE_NOT_FOUND),
        ("is_directory", UsageError, ErrorCode.REQUEST_INVALID),
        ("not_directory", UsageError, ErrorCode.REQUEST_INVALID),
        ("invalid_path", UsageError, ErrorCode.REQUEST_INVALID),
        ("bad_request", UsageError, ErrorCode.REQUEST_INVALID),
        ("permission_denied", UsageError, ErrorCode.PERMISSION_DENIED),
        ("no_space", TransientError, ErrorCode.DISK_FULL),
        ("io_error", PeerError, ErrorCode.GUEST_REJECTED),
        ("news", PeerError, ErrorCode.GUEST_REJECTED),
    ],
)
def test_refusal_becomes_an_error_of_ours(
    code: str, kind: type[SnapStartError], ours: ErrorCode
) -> None:
    error = refusal("reading file 'a'", code, "because")
    assert type(error) is kind
    assert error.code is ours
    assert "reading file 'a'" in error.message
    assert "because" in error.message


def test_long_words_of_a_guest_are_cut() -> None:
    assert len(str(refusal("x", "c" * 10_000, "m" * 10_000))) < 1200


def test_message_over_the_limit_is_refused_before_it_is_sent() -> None:
    request = ExecuteRequest(
        execution_id="e",
        code="x" * (4 << 20),
        timeout_s=None,
        max_output_bytes=1,
        max_result_bytes=1,
    )
    with pytest.raises(UsageError, match="over the guest's limit"):
        encode_message(request)


def test_code_that_is_not_unicode_is_refused() -> None:
    request = ExecuteRequest(
        execution_id="e", code="'\ud800'", timeout_s=1, max_output_bytes=1, max_result_bytes=1
    )
    with pytest.raises(UsageError, match="Unicode"):
        encode_message(request)
