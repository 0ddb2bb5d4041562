"""What a make target says when its program fails."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ErrorCode, TransientError
from bench.target import run_target


def disk_full() -> int:
    raise TransientError(ErrorCode.DISK_FULL, "writing the page: no space", hint="free some")


def broken() -> int:
    raise KeyError("oops")


def interrupted() -> int:
    raise KeyboardInterrupt


def last_line(out: str) -> Any:
    return json.loads(out.splitlines()[-1])


def test_the_status_of_a_program_that_ends_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_target(lambda: 3, as_json=True) == 3
    assert capsys.readouterr() == ("", "")


def test_a_failure_is_told_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_target(disk_full, as_json=False) == ErrorCode.DISK_FULL.exit_code
    assert capsys.readouterr() == ("", "error: writing the page: no space\nhint: free some\n")


@pytest.mark.parametrize(
    ("program", "code", "status"),
    [
        (disk_full, "disk_full", ErrorCode.DISK_FULL.exit_code),
        (broken, "internal", ErrorCode.INTERNAL.exit_code),
        (interrupted, "request_invalid", 130),
    ],
)
def test_json_ends_with_the_failure(
    capsys: pytest.CaptureFixture[str], program: Any, code: str, status: int
) -> None:
    assert run_target(program, as_json=True) == status
    found = last_line(capsys.readouterr().out)
    assert (found["error"]["code"], found["exit_status"]) == (code, status)
    assert found["error"]["hint"]


def test_a_defect_shows_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    run_target(broken, as_json=False)
    said = capsys.readouterr().err
    assert "in broken" in said
    assert "KeyError" in said


def test_one_that_is_told_to_end_takes_down_what_it_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down = tmp_path / "down"

    def ended() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            down.touch()
        return 0

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run_target(ended, as_json=True) == 130
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert down.exists()
    assert last_line(capsys.readouterr().out)["exit_status"] == 130
