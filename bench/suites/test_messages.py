"""What does it cost to read and write the messages of a fork?"""

from __future__ import annotations

import msgspec
from pytest_benchmark.fixture import BenchmarkFixture

from agentd.engine.journal import decode_lines, encode_line
from agentd.engine.journal_records import Role, VmIntended
from agentd.warmfork.frames import FrameCutter, FrameType, encode_frame
from agentd.wire import api

MESSAGES = 200
# In all smaller than what malloc takes from mmap(2), which would be most of the time, and differs
# from process to process.
STREAM = b"".join(encode_frame(FrameType.DATA, n % 7, b"x" * 4 * n) for n in range(MESSAGES))
CREATE = b'{"template":"python","env":{"LANG":"C"},"metadata":{"user":"u-1"},"ttl_s":600.0}'
RECORD = VmIntended("vm-0123456789abcdef", Role.SESSION, "/run/snapstart/vms/vm-0123456789abcdef")
LINES = b"".join(encode_line(RECORD) for _ in range(MESSAGES))


def test_frames_are_cut(benchmark: BenchmarkFixture) -> None:
    """200 frames of 0 to 796 bytes, from one chunk of received bytes to frames."""

    def cut() -> int:
        cutter = FrameCutter()
        cutter.feed(STREAM)
        return len(cutter.take())

    assert benchmark(cut) == MESSAGES


def test_a_request_for_a_session_is_read(benchmark: BenchmarkFixture) -> None:
    """One body of `POST /v1/sessions`, from bytes to the checked request."""
    assert benchmark(msgspec.json.decode, CREATE, type=api.CreateSession).template == "python"


def test_the_journal_is_read(benchmark: BenchmarkFixture) -> None:
    """200 lines with their checksums, from bytes to records."""
    assert len(benchmark(decode_lines, LINES, "journal")[0]) == MESSAGES
