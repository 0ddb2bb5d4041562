"""Looking at a page server that comes, serves, dies."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, TransientError
from agentd.pager.client import PagerClient
from agentd.pager.watch import PagerWatch, trim_log
from agentd.wire.pager import Listen
from tests.fakes.pager import FakePager, hand_over

REGIONS = [{"base_host_virt_addr": 1 << 32, "size": 8192, "offset": 0, "page_size": 4096}]


class Steps:
    """Collects what was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []

    def __call__(self, event: str, /, **details: str | int | float) -> None:
        self.told.append((event, details))

    def take(self) -> list[str]:
        told, self.told = self.told, []
        return [event for event, _ in told]


class Starter:
    """Stands for whoever starts a page server; `fails` says why it cannot."""

    def __init__(self) -> None:
        self.asked = 0
        self.fails = ""
        self.is_closed = False

    async def ensure(self) -> None:
        self.asked += 1
        if self.fails:
            raise TransientError(ErrorCode.DEADLINE_EXCEEDED, self.fails)

    def close(self) -> None:
        self.is_closed = True


def watch(root: Path, steps: Steps, starter: Starter | None = None) -> PagerWatch:
    client = PagerClient(root / "pager.sock")
    return PagerWatch(client, steps, root / "pager.log", starter)


async def serve_one(pager: FakePager, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x")
    order = Listen(
        "s-1", str(tmp_path / "s-1.sock"), "firecracker", str(tmp_path / "image"), "ab" * 32
    )
    await PagerClient(pager.path).listen(order)
    await hand_over(order.socket, REGIONS)
    await PagerClient(pager.path).wait("s-1", deadline_s=10.0)


async def test_one_that_comes_later_is_found_and_its_machines_are_told(tmp_path: Path) -> None:
    steps = Steps()
    watching = watch(tmp_path, steps)
    await watching.look()
    assert (watching.latest, steps.take()) == (None, [])
    async with FakePager(tmp_path).serving() as pager:
        await serve_one(pager, tmp_path)
        pager.facts["s-1"] = {"faults": 5, "prefetched": 15}
        await watching.look()
        assert steps.told[0] == ("pager.found", {"pid": os.getpid(), "machines": 1})
        served = {"vm": "s-1", "method": "install-before", "why": "a test"}
        assert steps.told[1] == ("pager.served", served)
        assert steps.told[2][1]["faults"] == 5
        steps.take()
        await watching.look()
        assert steps.take() == [], "nothing changed"
        assert watching.latest is not None


async def test_one_that_is_lost_is_told_once_and_its_machines_are_not_counted_twice(
    tmp_path: Path,
) -> None:
    steps = Steps()
    watching = watch(tmp_path, steps)
    pager = FakePager(tmp_path)
    async with pager.serving():
        await serve_one(pager, tmp_path)
        pager.facts["s-1"] = {"faults": 5}
        await watching.look()
    kept, steps.told = pager.machines, []
    await watching.look()
    await watching.look()
    assert (watching.latest, steps.take()) == (None, ["pager.lost"])
    successor = FakePager(tmp_path)
    successor.machines, successor.facts = kept, {"s-1": {"faults": 6}}
    async with successor.serving():
        await watching.look()
    assert [event for event, _ in steps.told] == ["pager.found", "pager.counted"]
    assert steps.told[1][1]["faults"] == 1


@pytest.mark.parametrize("is_alive", [True, False], ids=["machine-lives", "machine-ended"])
async def test_one_that_is_lost_is_missed_while_a_machine_of_its_lives(
    tmp_path: Path, is_alive: bool
) -> None:
    over = await asyncio.create_subprocess_exec("true")
    await over.wait()
    watching = watch(tmp_path, Steps())
    assert not watching.is_missed
    pager = FakePager(tmp_path)
    async with pager.serving():
        await serve_one(pager, tmp_path)
        pager.facts["s-1"] = {"pid": os.getpid() if is_alive else over.pid}
        await watching.look()
        assert not watching.is_missed
    await watching.look()
    assert watching.is_missed is is_alive


async def test_a_machine_that_was_stopped_is_told_with_its_reason(
    pager: FakePager, tmp_path: Path
) -> None:
    steps = Steps()
    watching = watch(tmp_path, steps)
    await serve_one(pager, tmp_path)
    await watching.look()
    await pager.stop_machine("s-1", "its image was cut")
    steps.take()
    await watching.look()
    assert steps.told == [("pager.machine.failed", {"vm": "s-1", "reason": "its image was cut"})]


async def test_one_that_has_to_be_there_is_started(tmp_path: Path) -> None:
    steps, starter = Steps(), Starter()
    await watch(tmp_path, steps, starter).look()
    assert starter.asked == 1


async def test_one_that_answers_needs_no_start(pager: FakePager, tmp_path: Path) -> None:
    starter = Starter()
    await watch(tmp_path, Steps(), starter).look()
    assert starter.asked == 0


async def test_a_start_that_fails_is_told_once_and_tried_again(tmp_path: Path) -> None:
    steps, starter = Steps(), Starter()
    starter.fails = "not on tmpfs"
    watching = watch(tmp_path, steps, starter)
    for _ in range(3):
        await watching.look()
    assert starter.asked == 3
    assert [event for event, _ in steps.told] == ["pager.start.failed"]
    assert "not on tmpfs" in str(steps.told[0][1]["error"])
    starter.fails = ""
    await watching.look()
    starter.fails = "again"
    await watching.look()
    assert steps.take() == ["pager.start.failed"] * 2, "a new failure after a success is news"


async def test_silence_is_no_page_server(pager: FakePager, tmp_path: Path) -> None:
    pager.says["stats"] = None
    steps = Steps()
    watching = watch(tmp_path, steps)
    await watching.look()
    assert (watching.latest, steps.take()) == (None, [])


def test_closing_it_lets_go_of_what_was_started(tmp_path: Path) -> None:
    starter = Starter()
    watch(tmp_path, Steps(), starter).close()
    assert starter.is_closed
    watch(tmp_path, Steps()).close()


async def test_it_looks_until_it_is_cancelled(pager: FakePager, tmp_path: Path) -> None:
    watching = watch(tmp_path, Steps())
    task = asyncio.create_task(watching.run())
    while watching.latest is None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_long_log_is_emptied_under_its_writer_and_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "pager.log"
    with path.open("ab") as writer:
        writer.write(b"x" * (8 << 20))
        writer.flush()
        trim_log(path)
        writer.write(b"more\n")
    assert path.read_bytes() == b"more\n"
    assert (tmp_path / "pager.log.1").stat().st_size == 8 << 20


def test_a_short_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "pager.log"
    trim_log(path)
    path.write_text("short\n")
    trim_log(path)
    assert path.read_text() == "short\n"
    assert not (tmp_path / "pager.log.1").exists()
