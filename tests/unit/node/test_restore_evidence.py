"""Whether a Pod came from its snapshot is judged from the sandboxer's list, never guessed."""

from __future__ import annotations

import pytest

from agentd.errors import ConfigError, ErrorCode, PeerError, SnapStartError, TransientError
from agentd.kuasar.client import KuasarSandbox, KuasarTemplate
from agentd.node.restore_evidence import (
    GIVE_UP_S,
    Result,
    Verdict,
    explain_cold,
    index,
    is_listed,
    judge,
    judge_failure,
    next_question_s,
)
from controlplane.api.types import SnapshotMode

POD = "11111111-aaaa"
KEY = "python-fork-g1-r1"


def sandbox(
    pod_uid: str = POD, status: str = "running", *, is_restored: bool = False
) -> KuasarSandbox:
    return KuasarSandbox("f" * 64, pod_uid, status, is_restored)


def verdict_on(*sandboxes: KuasarSandbox) -> tuple[str, str]:
    """Result and reason for the Pod."""
    found = judge(POD, index(sandboxes))
    return found.result.value, found.reason


def test_a_running_sandbox_tells_how_it_began() -> None:
    assert verdict_on(sandbox(is_restored=True)) == ("restore", "")
    assert verdict_on(sandbox(is_restored=False)) == ("cold_start", "")


def test_a_paused_sandbox_tells_it_as_well() -> None:
    assert verdict_on(sandbox(status="paused", is_restored=True)) == ("restore", "")


@pytest.mark.parametrize("status", ["created", "stopped", "unknown", ""])
def test_a_sandbox_that_does_not_run_proves_nothing(status: str) -> None:
    assert verdict_on(sandbox(status=status, is_restored=True)) == ("unknown", "not_running")


def test_the_successor_of_a_stopped_sandbox_decides() -> None:
    stopped = sandbox(status="stopped", is_restored=True)
    assert verdict_on(stopped, sandbox(is_restored=False)) == ("cold_start", "")


def test_two_running_sandboxes_that_differ_decide_nothing() -> None:
    both = (sandbox(is_restored=True), sandbox(is_restored=False))
    assert verdict_on(*both) == ("unknown", "ambiguous")


def test_the_sandboxes_of_other_pods_decide_nothing() -> None:
    assert verdict_on(sandbox("22222222-bbbb", is_restored=True)) == ("unknown", "not_listed")
    assert verdict_on() == ("unknown", "not_listed")


def test_a_list_that_does_not_tell_whose_a_sandbox_is_cannot_deny() -> None:
    assert verdict_on(sandbox("")) == ("unknown", "form_cannot_tell")
    assert verdict_on(sandbox(""), sandbox(is_restored=True)) == ("restore", "")


def test_leftovers_that_nobody_claims_do_not_hide_that_a_pod_is_absent() -> None:
    assert verdict_on(sandbox("", "stopped")) == ("unknown", "not_listed")


def test_a_pod_without_a_uid_is_never_taken_for_a_stranger() -> None:
    assert judge("", index([sandbox("", is_restored=True)])).result is Result.UNKNOWN


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TransientError(ErrorCode.PROVIDER_UNREACHABLE, "no socket"), "sandboxer_unreachable"),
        (TransientError(ErrorCode.DEADLINE_EXCEEDED, "no answer"), "sandboxer_unreachable"),
        (ConfigError(ErrorCode.PERMISSION_DENIED, "not root"), "sandboxer_failed"),
        (PeerError(ErrorCode.PROVIDER_PROTOCOL, "nonsense"), "sandboxer_failed"),
    ],
    ids=["away", "silent", "forbidden", "nonsense"],
)
def test_a_list_that_failed_is_a_doubt_with_its_words(error: SnapStartError, reason: str) -> None:
    assert judge_failure(error) == Verdict(Result.UNKNOWN, reason, str(error))


FORK = KuasarTemplate(KEY, SnapshotMode.FORK)
RESUME = KuasarTemplate(KEY, SnapshotMode.RESUME)
BARE = KuasarTemplate(KEY, None)


def test_only_what_can_be_forked_is_a_snapshot_for_a_session() -> None:
    assert is_listed([RESUME, FORK])
    assert not is_listed([RESUME, BARE])
    assert not is_listed([])


def test_a_cold_start_is_explained_by_what_the_store_holds() -> None:
    there, gone = explain_cold(KEY, [FORK]), explain_cold(KEY, [RESUME])
    assert (there.result, there.reason) == (Result.COLD_START, "not_restored")
    assert (gone.result, gone.reason) == (Result.COLD_START, "artifact_missing")
    assert repr(KEY) in there.message
    assert repr(KEY) in gone.message


def test_a_cold_start_stays_one_when_the_store_cannot_be_asked() -> None:
    error = TransientError(ErrorCode.PROVIDER_UNREACHABLE, "no socket")
    found = explain_cold(KEY, error)
    assert (found.result, found.reason) == (Result.COLD_START, "cause_unknown")
    assert "no socket" in found.message


def test_the_annotation_says_what_people_expect() -> None:
    said = {result: Verdict(result).started_from for result in Result}
    assert said == {
        Result.RESTORE: "snapshot",
        Result.COLD_START: "cold",
        Result.UNKNOWN: "unknown",
    }


def test_questions_become_rarer_and_end() -> None:
    delays = [next_question_s(0.0, times) for times in range(1, 7)]
    assert delays == [3.0, 6.0, 12.0, 24.0, 30.0, 30.0]
    assert next_question_s(GIVE_UP_S - 0.1, 9) is not None
    assert next_question_s(GIVE_UP_S, 1) is None


def test_no_number_of_questions_overflows() -> None:
    assert next_question_s(1.0, 10**9) == 30.0
