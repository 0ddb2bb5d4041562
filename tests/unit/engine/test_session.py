"""A session moves only as its table says."""

from __future__ import annotations

import itertools

import pytest

from agentd.engine.journal_records import (
    SessionFacts,
)
from agentd.engine.session import Session, SessionEvent, advance
from agentd.errors import ErrorCode, InvariantError, UsageError
from agentd.wire.api import SessionMode, SessionState

LEGAL = {
    (SessionState.STARTING, SessionEvent.STARTED): SessionState.READY,
    (SessionState.STARTING, SessionEvent.END): SessionState.ENDING,
    (SessionState.READY, SessionEvent.END): SessionState.ENDING,
    (SessionState.ENDING, SessionEvent.GONE): SessionState.ENDED,
}


def make_session(state: SessionState, **changes: float) -> Session:
    facts = SessionFacts("py", SessionMode.FORK, 0.0, 0.0, 10.0, "h")
    return Session("s", facts, expires_s=100.0, state=state, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(SessionState, SessionEvent)), ids=str
)
def test_every_pair_of_state_and_event(state: SessionState, event: SessionEvent) -> None:
    if (state, event) in LEGAL:
        assert advance(state, event) is LEGAL[state, event]
    else:
        with pytest.raises(InvariantError):
            advance(state, event)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (SessionState.STARTING, ErrorCode.REQUEST_INVALID),
        (SessionState.ENDING, ErrorCode.SESSION_ENDED),
        (SessionState.ENDED, ErrorCode.SESSION_ENDED),
    ],
)
def test_only_a_ready_session_is_used(state: SessionState, code: ErrorCode) -> None:
    with pytest.raises(UsageError) as caught:
        make_session(state).require_ready()
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("uses", "last_used_s", "now_s", "due_s"),
    [
        pytest.param(0, 50.0, 55.0, 60.0, id="idle since its last use"),
        pytest.param(1, 50.0, 55.0, 65.0, id="not idle while it is used"),
        pytest.param(0, 95.0, 96.0, 100.0, id="its time ends first"),
        pytest.param(1, 95.0, 99.0, 100.0, id="its time ends although it is used"),
    ],
)
def test_when_a_session_is_due(uses: int, last_used_s: float, now_s: float, due_s: float) -> None:
    session = make_session(SessionState.READY, uses=uses, last_used_s=last_used_s)
    assert session.due_s(now_s) == due_s


def test_a_session_that_ends_is_never_due() -> None:
    assert make_session(SessionState.ENDING).due_s(0.0) is None
