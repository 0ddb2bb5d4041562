"""The inject barrier: all guests start, or none does."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Sequence

import pytest

from agentd import native
from agentd.native import InjectPhase, InjectResult, InjectStatus
from tests.adapters.native.guests import CAPABILITIES, Behaviour, Guest, frame, guests, honest

LONG_S = 20.0
SHORT_S = 2.0
PREPARE = json.dumps(
    {"type": "PREPARE", "task_id": "t", "context": "", "env_overrides": {}}
).encode()


def run(
    behaviours: Sequence[Behaviour],
    *,
    prepare: bytes | None = PREPARE,
    prepare_s: float = LONG_S,
    commit_s: float = LONG_S,
    cancel_fd: int = -1,
) -> tuple[list[InjectResult], list[list[str]]]:
    """Inject into guests that behave so; returns the results with the types each one heard."""
    with guests(behaviours) as (theirs, ours):
        results = native.inject(
            [native.InjectTarget(each.fileno(), prepare) for each in ours],
            prepare_deadline_ns=native.deadline_after(prepare_s),
            commit_deadline_ns=native.deadline_after(commit_s),
            cancel_fd=cancel_fd,
        )
    return results, [[str(message["type"]) for message in guest.heard] for guest in theirs]


def rejects(guest: Guest) -> None:
    guest.say(CAPABILITIES)
    guest.hear()
    guest.say({"type": "REJECT", "reason": "resource_exhausted", "message": "no room"})
    guest.hear_all()


def silent(guest: Guest) -> None:
    guest.hear_all()


def silent_after_commit(guest: Guest) -> None:
    guest.say(CAPABILITIES)
    guest.hear()
    guest.say({"type": "READY"})
    guest.hear_all()


def test_all_guests_start() -> None:
    results, heard = run([honest, honest, honest])
    assert [each.status for each in results] == [InjectStatus.STARTED] * 3
    assert heard == [["PREPARE", "COMMIT"]] * 3
    assert max(each.ready_ns for each in results) <= min(each.started_ns for each in results)


def test_guest_without_task_is_committed_at_once() -> None:
    results, heard = run([honest], prepare=None)
    assert results[0].status is InjectStatus.STARTED
    assert heard == [["COMMIT"]]


def test_one_rejection_cancels_those_that_are_ready() -> None:
    all_ready = threading.Barrier(3)

    def ready(guest: Guest) -> None:
        guest.say(CAPABILITIES)
        guest.hear()
        guest.say({"type": "READY"})
        all_ready.wait()
        guest.hear_all()

    def rejects_last(guest: Guest) -> None:
        guest.say(CAPABILITIES)
        guest.hear()
        all_ready.wait()
        guest.say({"type": "REJECT", "reason": "invalid_task_id"})
        guest.hear_all()

    results, heard = run([ready, rejects_last, ready])
    assert [each.status for each in results] == [
        InjectStatus.CANCELLED,
        InjectStatus.REJECTED,
        InjectStatus.CANCELLED,
    ]
    assert heard == [["PREPARE", "CANCEL"], ["PREPARE"], ["PREPARE", "CANCEL"]]
    assert results[1].reason == "invalid_task_id"


def test_guest_that_is_not_ready_is_dropped_without_cancel() -> None:
    def never_ready(guest: Guest) -> None:
        guest.say(CAPABILITIES)
        guest.hear_all()

    results, heard = run([never_ready, rejects])
    assert [each.status for each in results] == [InjectStatus.CANCELLED, InjectStatus.REJECTED]
    assert "CANCEL" not in heard[0]
    assert results[1].text == "no room"


def test_missing_connection_starts_nobody() -> None:
    with guests([honest]) as (theirs, ours):
        results = native.inject(
            [native.InjectTarget(-1, PREPARE), native.InjectTarget(ours[0].fileno(), PREPARE)],
            prepare_deadline_ns=native.deadline_after(LONG_S),
            commit_deadline_ns=native.deadline_after(LONG_S),
        )
    assert [each.status for each in results] == [
        InjectStatus.CONNECT_FAILED,
        InjectStatus.CANCELLED,
    ]
    assert "COMMIT" not in [message["type"] for message in theirs[0].heard]


def test_silence_before_ready_is_a_prepare_timeout() -> None:
    results, heard = run([honest, silent], prepare_s=SHORT_S)
    assert [each.status for each in results] == [
        InjectStatus.CANCELLED,
        InjectStatus.TIMEOUT_PREPARE,
    ]
    assert heard == [["PREPARE", "CANCEL"], []]


def test_nothing_is_sent_after_commit() -> None:
    results, heard = run([honest, silent_after_commit], commit_s=SHORT_S)
    assert [each.status for each in results] == [
        InjectStatus.STARTED,
        InjectStatus.TIMEOUT_COMMIT,
    ]
    assert heard == [["PREPARE", "COMMIT"]] * 2
    assert results[1].phase is InjectPhase.COMMIT


def test_frame_may_arrive_byte_by_byte() -> None:
    def dribble(guest: Guest) -> None:
        guest.put(frame(CAPABILITIES), piece=1)
        guest.hear()
        guest.put(frame({"type": "READY"}), piece=3)
        guest.hear()
        guest.put(frame({"type": "STARTED", "more": 1}), piece=1)
        guest.hear_all()

    results, _ = run([dribble])
    assert results[0].status is InjectStatus.STARTED


BROKEN = {
    "oversize": struct.pack(">I", 4 * 1024 * 1024 + 1),
    "empty": struct.pack(">I", 0),
    "not_json": struct.pack(">I", 4) + b"nope",
    "not_utf8": struct.pack(">I", 12) + b'{"type":"\xff"}',
    "no_type": frame({"kind": "CAPABILITIES"}),
    "unknown_type": frame({"type": "HELLO"}),
    "out_of_turn": frame({"type": "STARTED"}),
    "wrong_version": frame({"type": "CAPABILITIES", "protocol_version": "v1"}),
    "version_is_a_number": frame({"type": "CAPABILITIES", "protocol_version": 1}),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken_message_is_a_protocol_error(data: bytes) -> None:
    def breaks(guest: Guest) -> None:
        guest.put(data)
        guest.hear_all()

    results, heard = run([breaks])
    assert results[0].status is InjectStatus.PROTOCOL_ERROR, results
    assert results[0].text
    assert heard == [[]]


@pytest.mark.parametrize("kept", [0, 2, 4, 20], ids=["nothing", "half_length", "length", "part"])
def test_early_end_of_stream_is_peer_closed(kept: int) -> None:
    def stops(guest: Guest) -> None:
        guest.put(frame(CAPABILITIES)[:kept])
        guest.hang_up()

    results, _ = run([stops])
    assert results[0].status is InjectStatus.PEER_CLOSED


def test_largest_message_is_accepted() -> None:
    def verbose(guest: Guest) -> None:
        message = dict(CAPABILITIES, padding="")
        message["padding"] = "x" * (4 * 1024 * 1024 - len(json.dumps(message)))
        guest.say(message)
        guest.hear()
        guest.say({"type": "READY"})
        guest.hear()
        guest.say({"type": "STARTED"})
        guest.hear_all()

    results, _ = run([verbose])
    assert results[0].status is InjectStatus.STARTED


def test_cancel_fd_cancels_those_that_are_ready() -> None:
    cancel_fd = os.eventfd(0, os.EFD_CLOEXEC)
    timer = threading.Timer(1.0, os.eventfd_write, (cancel_fd, 1))

    def ready(guest: Guest) -> None:
        guest.say(CAPABILITIES)
        guest.hear()
        guest.say({"type": "READY"})
        timer.start()
        guest.hear_all()

    try:
        results, heard = run([ready, silent], cancel_fd=cancel_fd)
    finally:
        timer.join()
        os.close(cancel_fd)
    assert [each.status for each in results] == [InjectStatus.CANCELLED] * 2
    assert heard == [["PREPARE", "CANCEL"], []]
