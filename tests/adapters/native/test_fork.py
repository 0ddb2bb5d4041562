"""The fork sequence against a VMM that goes wrong in every way we know."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from dataclasses import replace

import pytest

from agentd import native
from agentd.errors import ConfigError, ErrorCode, PeerError
from tests.adapters.native.standin import PREPARE, Standin

LONG_S = 30.0
SHORT_S = 0.3

BREAKS = [
    ("exit_at_start", ErrorCode.VMM_FAILED, native.ForkStage.MONITOR),
    ("qmp_garbage", ErrorCode.VMM_PROTOCOL, native.ForkStage.MONITOR),
    ("qmp_long_line", ErrorCode.VMM_PROTOCOL, native.ForkStage.MONITOR),
    ("qmp_flood", ErrorCode.VMM_PROTOCOL, native.ForkStage.LOAD),
    ("qmp_hangup", ErrorCode.VMM_PROTOCOL, native.ForkStage.LOAD),
    ("qmp_error", ErrorCode.VMM_FAILED, native.ForkStage.LOAD),
    ("migration_failed", ErrorCode.VMM_FAILED, native.ForkStage.LOAD),
    ("channel_garbage", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("oversize_frame", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("oversize_message", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("empty_message", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("bad_json", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("wrong_type", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("wrong_version", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("gate_open", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("stream_closed", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("resync", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("channel_flood", ErrorCode.GUEST_PROTOCOL, native.ForkStage.PREPARE),
    ("half_frame_then_exit", ErrorCode.VMM_FAILED, native.ForkStage.PREPARE),
    ("channel_hangup", ErrorCode.VMM_PROTOCOL, native.ForkStage.PREPARE),
    ("killed", ErrorCode.VMM_FAILED, native.ForkStage.PREPARE),
    ("reject", ErrorCode.GUEST_REJECTED, native.ForkStage.PREPARE),
    ("exit_after_commit", ErrorCode.VMM_FAILED, native.ForkStage.START),
]
SILENCES = [
    ("hang_at_start", ErrorCode.GUEST_NOT_READY, native.ForkStage.MONITOR),
    ("silent_monitor", ErrorCode.GUEST_NOT_READY, native.ForkStage.MONITOR),
    ("never_loaded", ErrorCode.GUEST_NOT_READY, native.ForkStage.LOAD),
    ("never_resumes", ErrorCode.GUEST_NOT_READY, native.ForkStage.RESUME),
    ("no_hello_ack", ErrorCode.GUEST_NOT_READY, native.ForkStage.GUEST),
    ("wrong_epoch", ErrorCode.GUEST_NOT_READY, native.ForkStage.GUEST),
    ("silent_after_prepare", ErrorCode.DEADLINE_EXCEEDED, native.ForkStage.PREPARE),
    ("silent_after_commit", ErrorCode.DEADLINE_EXCEEDED, native.ForkStage.START),
]


def fork(
    request: native.ForkRequest, seconds: float = LONG_S, cancel_fd: int = -1
) -> native.ForkResult:
    """Run one fork with a deadline in seconds."""
    deadline_ns = native.deadline_after(seconds)
    return native.fork(request, deadline_ns=deadline_ns, cancel_fd=cancel_fd)


def test_fork_reaches_started_with_every_stage_timed(standin: Standin) -> None:
    with standin.request("none") as request:
        result = fork(request)
        native.discard_fork(result)
    times = result.times
    order = [times.begun_ns, times.spawned_ns, times.monitor_ns, times.resumed_ns, times.loaded_ns]
    assert order == sorted(order)
    assert times.loaded_ns <= times.guest_ready_ns <= times.prepared_ns <= times.started_ns


def test_guest_gets_prepare_then_commit_with_the_clock(standin: Standin) -> None:
    before_ns = time.time_ns()
    with standin.request("none") as request:
        native.discard_fork(fork(request))
    prepare, commit = standin.messages()
    assert prepare == json.loads(PREPARE)
    assert commit["type"] == "COMMIT"
    assert before_ns <= int(str(commit["wall_clock_ns"])) <= time.time_ns()
    assert int(str(commit["held_ns"])) >= 0


def test_what_was_read_too_far_is_handed_back(standin: Standin) -> None:
    with standin.request("none") as request:
        result = fork(request)
        try:
            channel = result.channel_pending
            while len(channel) < 12:  # CLOSE of the inject stream, in memory or in the socket
                channel += os.read(request.channel_fd, 12)
            qmp = result.qmp_pending
            while len(qmp) < 17:
                qmp += os.read(request.qmp_fd, 17)
        finally:
            native.discard_fork(result)
    assert channel == b"SF\x05\0\0\0\0\x01\0\0\0\0"
    assert qmp == b'{"event": "LATER"'


def test_cold_boot_has_nothing_to_load(standin: Standin) -> None:
    with standin.request("boots") as request:
        result = fork(replace(request, qmp_lines=b"", qmp_replies=0))
        native.discard_fork(result)
    times = result.times
    assert times.monitor_ns <= times.loaded_ns == times.resumed_ns < times.started_ns


def test_prepare_beyond_the_credit_is_delivered_whole(standin: Standin) -> None:
    prepare = json.dumps({"type": "PREPARE", "context": "x" * 2_000_000}).encode()
    with standin.request("none", prepare) as request:
        native.discard_fork(fork(request))
    assert standin.log.read_bytes().startswith(prepare + b"\n")


@pytest.mark.parametrize(("fault", "code", "stage"), BREAKS, ids=[row[0] for row in BREAKS])
def test_broken_peer_fails_the_fork_at_once(
    standin: Standin, fault: str, code: ErrorCode, stage: native.ForkStage
) -> None:
    with standin.request(fault) as request, pytest.raises(native.ForkError) as caught:
        fork(request)
    assert (caught.value.code, caught.value.stage) == (code, stage), caught.value


@pytest.mark.parametrize(("fault", "code", "stage"), SILENCES, ids=[row[0] for row in SILENCES])
def test_silent_peer_is_bound_by_the_deadline(
    standin: Standin, fault: str, code: ErrorCode, stage: native.ForkStage
) -> None:
    # A machine that stalls may not let it come as far as it is to be silent.
    for seconds in (SHORT_S, 3.0, 20.0):
        with standin.request(fault) as request, pytest.raises(native.ForkError) as caught:
            fork(request, seconds)
        if caught.value.stage is stage:
            break
    assert (caught.value.code, caught.value.stage) == (code, stage), caught.value


@pytest.mark.parametrize(("fault", "status"), [("exit_at_start", 1 << 8), ("killed", 9)])
def test_error_tells_how_the_vmm_ended(standin: Standin, fault: str, status: int) -> None:
    with standin.request(fault) as request, pytest.raises(native.ForkError) as caught:
        fork(request)
    assert caught.value.exit_status == status


def test_reject_carries_reason_with_message(standin: Standin) -> None:
    with (
        standin.request("reject") as request,
        pytest.raises(PeerError, match=r"'invalid_task_id': who\?"),
    ):
        fork(request)


def test_monitors_refusal_is_quoted(standin: Standin) -> None:
    with (
        standin.request("qmp_error") as request,
        pytest.raises(PeerError, match="GenericError: no \u201cx\u201d"),
    ):
        fork(request)


def test_missing_program_is_the_operators_move(standin: Standin) -> None:
    with standin.request("none") as request:
        spawn = replace(request.spawn, executable="/nonexistent/qemu")
        with pytest.raises(ConfigError, match="execute the program") as caught:
            fork(replace(request, spawn=spawn))
    assert caught.value.code is ErrorCode.MONITOR_MISSING


@pytest.mark.parametrize(
    "fault", ["hang_at_start", "never_loaded", "no_hello_ack", "silent_after_commit", "wrong_epoch"]
)
def test_cancel_fd_ends_the_call_without_a_process(standin: Standin, fault: str) -> None:
    cancel_fd = os.eventfd(0, os.EFD_CLOEXEC)
    timer = threading.Timer(0.1, os.eventfd_write, (cancel_fd, 1))
    timer.start()
    try:
        with standin.request(fault) as request, pytest.raises(native.CallCancelledError):
            fork(request, cancel_fd=cancel_fd)
    finally:
        timer.join()
        os.close(cancel_fd)


def test_cancelled_before_the_start_starts_nothing(standin: Standin) -> None:
    cancel_fd = os.eventfd(1, os.EFD_CLOEXEC)
    try:
        with standin.request("none") as request, pytest.raises(native.CallCancelledError):
            fork(request, cancel_fd=cancel_fd)
    finally:
        os.close(cancel_fd)
    assert not standin.log.exists()


async def test_cancelled_task_waits_for_the_vmm_to_be_reaped(standin: Standin) -> None:
    with standin.request("never_loaded") as request:
        deadline_ns = native.deadline_after(LONG_S)
        work = asyncio.create_task(
            native.run(
                lambda cancel_fd: native.fork(
                    request, deadline_ns=deadline_ns, cancel_fd=cancel_fd
                ),
                discard=native.discard_fork,
            )
        )
        await asyncio.sleep(0.1)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work


async def test_result_that_lost_the_race_with_cancellation_is_discarded(standin: Standin) -> None:
    discarded: list[native.ForkResult] = []

    def discard(result: native.ForkResult) -> None:
        native.discard_fork(result)
        discarded.append(result)

    with standin.request("none") as request:
        deadline_ns = native.deadline_after(LONG_S)
        work = asyncio.create_task(
            native.run(lambda _: native.fork(request, deadline_ns=deadline_ns), discard=discard)
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert len(discarded) == 1
