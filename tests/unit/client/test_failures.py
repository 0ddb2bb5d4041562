"""Errors keep their code and class on the way to the caller."""

from __future__ import annotations

import pytest

from agentd.client import calls, failures
from agentd.errors import (
    ErrorCode,
    InvariantError,
    PeerError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.wire import api


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_comes_back_as_itself_with_a_class_of_its_own(code: ErrorCode) -> None:
    error = failures.error_of(api.ErrorBody(code=code.value, message="m", hint="h"))
    assert error.code is code
    assert error.message == "m"
    assert type(error) is not SnapStartError
    assert isinstance(error, InvariantError) == (code is ErrorCode.INTERNAL)


def test_file_errors_of_the_guest_have_codes_of_ours() -> None:
    error = failures.error_of(api.ErrorBody(code="not_found", message="m"))
    assert isinstance(error, UsageError)
    assert error.code is ErrorCode.FILE_NOT_FOUND


def test_a_code_nobody_knows_is_kept_in_the_message() -> None:
    error = failures.error_of(api.ErrorBody(code="martian", message="m"))
    assert isinstance(error, PeerError)
    assert "martian" in str(error)


@pytest.mark.parametrize(
    ("header", "delay_s"), [(None, 1.0), ("3", 3.0), ("soon", 1.0), ("-5", 0.0)]
)
def test_retry_after_is_read_with_care(header: str | None, delay_s: float) -> None:
    body = b'{"error": {"code": "node_full", "message": "m"}}'
    error = failures.refusal("x", 503, body, header)
    assert isinstance(error, TransientError)
    assert error.delay_s == delay_s


def test_the_socket_is_the_environments_then_the_users_own_then_the_nodes() -> None:
    named = {"SNAPSTART_SOCKET": "/a.sock", "XDG_RUNTIME_DIR": "/run/user/5"}
    assert calls.choose_socket(named, has_own_daemon=True) == "/a.sock"
    assert calls.choose_socket({}, has_own_daemon=False) == calls.DEFAULT_SOCKET
    own = calls.own_socket({"XDG_RUNTIME_DIR": "/run/user/5"}, 5)
    assert own == "/run/user/5/snapstart/agentd.sock"


def test_ids_cannot_leave_their_place_in_the_path() -> None:
    assert calls.show_session("../x?y").path == "/v1/sessions/..%2Fx%3Fy"
    with pytest.raises(UsageError):
        calls.show_session("")
