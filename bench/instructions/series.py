"""What is counted: for each series a call, made ready by what only it imports.

PYTHONHASHSEED=0 valgrind --tool=callgrind python -m bench.instructions.series lookup.hash 50
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Final

Call = Callable[[], object]


def _lookup_hash() -> Call:
    from bench.lookup import hash_alone, make_population

    population = make_population(1)
    return lambda: hash_alone(population)


def _planner_ready() -> Call:
    from controlplane.snapshots.plan import plan_snapshot
    from tests.fakes.snapshot_world import make_ready_world

    world = make_ready_world(*(f"node-{number:02}" for number in range(20)))
    seen, now = world.observe(), world.now
    return lambda: plan_snapshot(seen, now)


def _messages_frames() -> Call:
    from agentd.warmfork.frames import FrameCutter, FrameType, encode_frame

    stream = b"".join(encode_frame(FrameType.DATA, n % 7, b"x" * 64 * n) for n in range(50))

    def cut() -> object:
        cutter = FrameCutter()
        cutter.feed(stream)
        return cutter.take()

    return cut


def _messages_session() -> Call:
    import msgspec

    from agentd.wire import api

    body = b'{"template":"python","env":{"LANG":"C"},"metadata":{"user":"u-1"},"ttl_s":600.0}'
    return lambda: msgspec.json.decode(body, type=api.CreateSession)


def _journal_write() -> Call:
    from agentd.engine.journal import encode_line
    from agentd.engine.journal_records import Role, VmIntended

    record = VmIntended("vm-0123456789abcdef", Role.SESSION, "/run/snapstart/vms/vm-0123456789")
    return lambda: encode_line(record)


def _journal_read() -> Call:
    from agentd.engine.journal import decode_lines, encode_line
    from agentd.engine.journal_records import Role, VmIntended

    record = VmIntended("vm-0123456789abcdef", Role.SESSION, "/run/snapstart/vms/vm-0123456789")
    lines = encode_line(record) * 50
    return lambda: decode_lines(lines, "journal")


# With so many calls that they are some ten million instructions.
SERIES: Final[dict[str, tuple[Callable[[], Call], int]]] = {
    "lookup.hash": (_lookup_hash, 50),
    "planner.ready_on_20_nodes": (_planner_ready, 20),
    "messages.50_frames_cut": (_messages_frames, 500),
    "messages.session_request_read": (_messages_session, 5000),
    "journal.line_written": (_journal_write, 5000),
    "journal.50_lines_read": (_journal_read, 200),
}


def main(name: str, calls: int) -> None:
    """Make the calls; the collector of cycles would fall on some of them by chance."""
    call = SERIES[name][0]()
    gc.disable()
    for _ in range(calls):
        call()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
