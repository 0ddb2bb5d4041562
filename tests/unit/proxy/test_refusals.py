"""Refusals say what went wrong in our own words."""

from __future__ import annotations

import pytest

from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError, UsageError
from agentd.kuasar.failures import kuasar_error
from agentd.kuasar.names import require_key
from agentd.proxy.refusals import RefusedError, refusal_of, timed_out

SECRET = "/var/lib/kuasar/pool/warmfork/abc of not found, in use"


def refused(code: ErrorCode) -> RefusedError:
    return refusal_of(SnapStartError(code, SECRET, hint=SECRET))


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        (ErrorCode.TEMPLATE_NOT_FOUND, 404, "not_found"),
        (ErrorCode.TEMPLATE_IN_USE, 409, "template_in_use"),
        (ErrorCode.TEMPLATE_EXISTS, 409, "template_exists"),
        (ErrorCode.TEMPLATE_NOT_READY, 409, "template_busy"),
        (ErrorCode.GUEST_NOT_READY, 409, "sandbox_not_ready"),
        (ErrorCode.GUEST_CONTAMINATED, 409, "sandbox_contaminated"),
        (ErrorCode.REQUEST_INVALID, 409, "sandbox_unfit"),
        (ErrorCode.PROVIDER_FAILED, 502, "provider_error"),
        (ErrorCode.PROVIDER_PROTOCOL, 502, "provider_error"),
        (ErrorCode.PROVIDER_UNREACHABLE, 502, "provider_error"),
        (ErrorCode.PERMISSION_DENIED, 502, "provider_error"),
        (ErrorCode.DISK_FULL, 502, "provider_error"),
        (ErrorCode.PROVIDER_UNABLE, 502, "provider_unable"),
        (ErrorCode.NODE_FULL, 502, "provider_full"),
        (ErrorCode.DEADLINE_EXCEEDED, 504, "timeout"),
        (ErrorCode.INTERNAL, 500, "internal"),
    ],
)
def test_each_failure_has_its_status(code: ErrorCode, status: int, told: str) -> None:
    assert (refused(code).status, refused(code).code) == (status, told)


@pytest.mark.parametrize("code", [one for one in ErrorCode if one is not ErrorCode.NAME_INVALID])
def test_defect_97_what_a_provider_said_goes_into_the_log_alone(code: ErrorCode) -> None:
    one = refused(code)
    assert SECRET in one.detail
    assert SECRET not in one.message
    assert SECRET not in str(one)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_only_what_is_gone_reads_as_gone_and_what_is_used_as_used(code: ErrorCode) -> None:
    """Control planes of the first form look for these words in the body of a failed delete."""
    one = refusal_of(SnapStartError(code, "something"))
    told = f"{one.code} {one.message}".lower()
    is_gone = "not_found" in told or "not found" in told
    is_used = "template_in_use" in told or "in use" in told
    assert is_gone is (code is ErrorCode.TEMPLATE_NOT_FOUND)
    assert is_used is (code is ErrorCode.TEMPLATE_IN_USE)


def test_a_bad_name_is_told_as_it_was_written() -> None:
    with pytest.raises(UsageError) as caught:
        require_key("a/b")
    one = refusal_of(caught.value)
    assert (one.status, one.code) == (400, "bad_request")
    assert "'a/b'" in one.message
    assert one.detail == ""


def test_what_passes_says_when_to_come_again() -> None:
    assert refusal_of(TransientError(ErrorCode.NODE_FULL, "", delay_s=60.0)).retry_s == 60.0
    assert refusal_of(PeerError(ErrorCode.PROVIDER_FAILED, "")).retry_s == 0.0


def test_the_sandboxers_words_find_their_status() -> None:
    one = refusal_of(kuasar_error("removing", "template x is in use by a running sandbox"))
    assert (one.status, one.code) == (409, "template_in_use")
    two = refusal_of(kuasar_error("creating", "disk copy failed: /dev/vdb"))
    assert (two.status, two.code) == (502, "provider_error")
    assert "/dev/vdb" not in two.message


def test_our_own_patience_ends_like_the_providers() -> None:
    assert (timed_out().status, timed_out().code) == (504, "timeout")
