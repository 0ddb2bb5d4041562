"""A wall clock that is set by an hour ends no session early, keeps none for longer."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.adapters.pressure.clock import HOUR_S, WallClock
from tests.adapters.pressure.node import node_process


def off_s(session: dict[str, str]) -> float:
    """What a session was stamped with, against the clock that was not set."""
    created = datetime.fromisoformat(session["created_at"])
    return (created - datetime.now(UTC)).total_seconds()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
async def test_sessions_live_as_long_as_was_said_while_the_clock_is_set(
    tmp_path: Path, jump_s: int
) -> None:
    clock = WallClock(tmp_path)
    async with node_process(tmp_path, environ=clock.environ) as node:
        await node.template()
        kept = await node.session(ttl_s=HOUR_S / 2)
        idle = await node.session(idle_timeout_s=HOUR_S / 2)
        brief = await node.session(ttl_s=4)
        clock.set_off(jump_s)
        late = await node.session(ttl_s=4)
        assert abs(off_s(late) - jump_s) < HOUR_S / 4
        assert (await node.ended(brief))["ended_reason"] == "expired"
        assert (await node.ended(late))["ended_reason"] == "expired"
        clock.set_off(0)
        assert abs(off_s(await node.session())) < HOUR_S / 4
        for session in (kept, idle):
            assert await node.says(session) == "here"
