"""A refusal says whose move it is."""

from __future__ import annotations

import pytest

from agentd.errors import (
    ErrorCode,
    InvariantError,
    PeerError,
    PermanentError,
    SnapStartError,
    TransientError,
)
from agentd.pager.failures import pager_error
from agentd.wire.pager import Refusal


@pytest.mark.parametrize(
    ("word", "kind", "code"),
    [
        ("unknown", TransientError, ErrorCode.VMM_FAILED),
        ("stopped", PermanentError, ErrorCode.VMM_FAILED),
        ("image", PermanentError, ErrorCode.TEMPLATE_CORRUPT),
        ("timeout", TransientError, ErrorCode.DEADLINE_EXCEEDED),
        ("hand_over", TransientError, ErrorCode.VMM_PROTOCOL),
        ("system", TransientError, ErrorCode.NODE_FULL),
        ("invalid", InvariantError, ErrorCode.INTERNAL),
        ("exists", InvariantError, ErrorCode.INTERNAL),
    ],
)
def test_a_word_is_an_error_with_the_page_servers_text(
    word: str, kind: type[SnapStartError], code: ErrorCode
) -> None:
    error = pager_error("wait for machine 's-1'", Refusal(word, "what it said"))
    assert type(error) is kind
    assert error.code is code
    assert error.message == "wait for machine 's-1': what it said"


@pytest.mark.parametrize("word", ["unknown", "timeout", "hand_over"])
def test_a_machine_that_cannot_be_served_is_to_be_started_anew(word: str) -> None:
    assert "start it anew" in pager_error("wait", Refusal(word)).hint


def test_a_word_without_a_text_is_shown_itself() -> None:
    assert pager_error("wait", Refusal("stopped")).message == "wait: stopped"


def test_a_word_of_another_version_is_the_page_servers_fault() -> None:
    error = pager_error("wait", Refusal("tired", "no more"))
    assert isinstance(error, PeerError)
    assert error.code is ErrorCode.VMM_PROTOCOL
    assert "'tired'" in error.message
    assert "no more" in error.message
