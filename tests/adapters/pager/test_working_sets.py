"""Recording, merging, dropping; a script stands for `snap-pager working-set`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ErrorCode, PeerError, TransientError
from agentd.pager.merging import Merge, run_merge
from agentd.pager.working_sets import Source, WorkingSets
from agentd.wire.pager import Listen, Recording, Serving, Stats

DIGEST, OTHER = "ab" * 32, "cd" * 32
REPORT = '{"pages":5,"runs":2,"data_bytes":20480,"dropped_pages":1,"precision":0.9,"recall":0.8}'
SINGLE = '{"pages":5,"runs":2,"data_bytes":20480,"dropped_pages":1,"precision":null,"recall":null}'


class RecordingPager:
    """Writes a record where the order said, unless it fails."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.fails = False

    async def end_recording(self, vm_id: str, *, deadline_s: float) -> Recording:
        if self.fails:
            raise TransientError(ErrorCode.VMM_FAILED, "the record is lost")
        self.source.record(vm_id).write_text(vm_id)
        return Recording(touches=7, written=3)

    async def listen(self, order: Listen) -> None:
        raise AssertionError

    async def wait(self, vm_id: str, *, deadline_s: float) -> Serving:
        raise AssertionError

    async def forget(self, vm_id: str) -> None:
        raise AssertionError

    async def stats(self) -> Stats:
        raise AssertionError


class Rig:
    """A template's directory, a program, what was told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        directory = root / "py"
        directory.mkdir()
        self.source = Source(directory, directory / "memory", DIGEST)
        self.pager = RecordingPager(self.source)
        self.told: list[tuple[str, dict[str, object]]] = []
        self.binary = root / "snap-pager"
        self.program(f"echo merged > \"$out\"; echo '{REPORT}'")
        self.sets = self.new_sets()

    def program(self, script: str) -> None:
        """What the program does; `$out` is where it writes, its arguments are kept."""
        self.binary.write_text(
            f'#!/bin/bash\nprintf "%s\\n" "$@" > {self.root}/argv\nout="$7"\n{script}\n'
        )
        self.binary.chmod(0o755)

    def new_sets(self, record_forks: int = 3) -> WorkingSets:
        return WorkingSets(self.binary, 1000, record_forks, self.step)

    def step(self, event: str, /, **details: str | int | float) -> None:
        self.told.append((event, details))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.told]

    async def record(self, *vm_ids: str) -> None:
        for vm_id in vm_ids:
            assert self.sets.plan(self.source, vm_id).record == str(self.source.record(vm_id))
        for vm_id in vm_ids:
            await self.sets.end(self.pager, self.source, vm_id, deadline_s=10.0)

    async def until(self, event: str) -> dict[str, object]:
        while event not in self.events:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return dict(self.told)[event]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    await made.sets.close()


async def test_the_first_forks_are_recorded_and_later_ones_get_the_set(rig: Rig) -> None:
    await rig.record("s-1", "s-2", "s-3")
    told = await rig.until("working_set.made")
    assert (told["records"], told["pages"], told["recall"]) == (3, 5, 0.8)
    pages = rig.sets.plan(rig.source, "s-4")
    assert (pages.working_set, pages.record) == (str(rig.source.working_set), "")
    assert [path.name for path in rig.source.pages.iterdir()] == [f"{DIGEST}.set"]


async def test_the_program_is_told_image_digest_budget_and_every_record(rig: Rig) -> None:
    await rig.record("s-1", "s-2", "s-3")
    await rig.until("working_set.made")
    assert (rig.root / "argv").read_text().splitlines() == [
        "working-set", "--image", str(rig.source.image), "--digest", DIGEST,
        "--out", str(rig.source.working_set), "--budget-pages", "1000",
        *(str(rig.source.record(vm_id)) for vm_id in ("s-1", "s-2", "s-3")),
    ]  # fmt: skip


async def test_a_fork_beyond_those_that_are_recorded_starts_without(rig: Rig) -> None:
    for vm_id in ("s-1", "s-2", "s-3"):
        rig.sets.plan(rig.source, vm_id)
    pages = rig.sets.plan(rig.source, "s-4")
    assert (pages.working_set, pages.record) == ("", "")
    await rig.sets.end(rig.pager, rig.source, "s-4", deadline_s=10.0)
    assert rig.told == []


async def test_a_record_that_is_lost_makes_room_for_another_fork(rig: Rig) -> None:
    await rig.record("s-1", "s-2")
    assert rig.sets.plan(rig.source, "s-3").record
    rig.pager.fails = True
    await rig.sets.end(rig.pager, rig.source, "s-3", deadline_s=10.0)
    assert rig.events[-1] == "working_set.lost"
    rig.pager.fails = False
    await rig.record("s-4")
    await rig.until("working_set.made")


async def test_a_fork_that_dies_while_it_is_recorded_makes_room(rig: Rig) -> None:
    for vm_id in ("s-1", "s-2", "s-3"):
        rig.sets.plan(rig.source, vm_id)
    rig.sets.give_up(rig.source, "s-2")
    rig.sets.give_up(rig.source, "s-2")
    assert rig.sets.plan(rig.source, "s-4").record


async def test_files_of_other_memory_are_dropped_at_the_next_fork(rig: Rig) -> None:
    rig.source.pages.mkdir()
    for name in (f"{OTHER}.set", f"{OTHER}.s-9.record", f"{DIGEST}.s-8.record.Xy12ab"):
        (rig.source.pages / name).write_text("")
    pages = rig.sets.plan(rig.source, "s-1")
    assert (pages.working_set, pages.record) == ("", str(rig.source.record("s-1")))
    assert list(rig.source.pages.iterdir()) == []


async def test_a_template_that_was_built_anew_is_recorded_anew(rig: Rig) -> None:
    await rig.record("s-1", "s-2", "s-3")
    await rig.until("working_set.made")
    anew = Source(rig.source.directory, rig.source.image, OTHER)
    assert rig.sets.plan(anew, "s-4").record == str(anew.record("s-4"))
    assert not rig.source.working_set.exists()


async def test_records_of_a_daemon_that_ended_are_merged_by_the_next(rig: Rig) -> None:
    rig.source.pages.mkdir()
    for vm_id in ("s-1", "s-2", "s-3"):
        rig.source.record(vm_id).write_text("")
    pages = rig.sets.plan(rig.source, "s-4")
    assert (pages.working_set, pages.record) == ("", "")
    await rig.until("working_set.made")
    assert rig.sets.plan(rig.source, "s-5").working_set


async def test_a_merge_that_fails_is_told_and_not_tried_without_end(rig: Rig) -> None:
    rig.program("echo 'error: it is damaged' >&2; exit 1")
    await rig.record("s-1", "s-2", "s-3")
    told = await rig.until("working_set.failed")
    assert "it is damaged" in str(told["error"])
    assert "status 1" in str(told["error"])
    pages = rig.sets.plan(rig.source, "s-4")
    assert (pages.working_set, pages.record) == ("", "")
    assert list(rig.source.pages.iterdir()) == [], "what could not be merged never will be"
    assert rig.new_sets().plan(rig.source, "s-5").record, "the next daemon records anew"


async def test_a_program_that_is_not_there_is_told(rig: Rig) -> None:
    rig.binary.unlink()
    await rig.record("s-1", "s-2", "s-3")
    assert "No such file" in str((await rig.until("working_set.failed"))["error"])


async def test_a_stop_during_a_merge_ends_the_program_and_keeps_the_records(rig: Rig) -> None:
    rig.program("echo $$ > " + str(rig.root / "pid") + "; exec sleep 600")
    await rig.record("s-1", "s-2", "s-3")
    while not (rig.root / "pid").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await rig.sets.close()
    assert len(list(rig.source.pages.iterdir())) == 3
    assert "working_set.failed" not in rig.events


async def test_a_stop_while_the_program_is_being_started_ends_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, is_started = asyncio.create_subprocess_exec, asyncio.Event()

    async def start_late(*words: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*words, **options)
        is_started.set()
        await asyncio.sleep(0.1)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_late)
    rig.program("exec sleep 600")
    await rig.record("s-1", "s-2", "s-3")
    await is_started.wait()
    await rig.sets.close()


async def test_a_template_that_is_gone_costs_its_fork_nothing_but_speed(rig: Rig) -> None:
    rig.source.directory.rmdir()
    pages = rig.sets.plan(rig.source, "s-1")
    assert (pages.working_set, pages.record) == ("", "")
    assert rig.events == ["working_set.failed"]


async def test_with_recording_off_a_set_is_used_and_none_is_made(rig: Rig) -> None:
    sets = rig.new_sets(record_forks=0)
    assert sets.plan(rig.source, "s-1").record == ""
    assert not rig.source.pages.exists()
    rig.source.pages.mkdir()
    rig.source.working_set.write_text("")
    assert sets.plan(rig.source, "s-2").working_set == str(rig.source.working_set)


async def test_one_record_has_no_shares_to_tell(rig: Rig) -> None:
    rig.program(f"echo merged > \"$out\"; echo '{SINGLE}'")
    rig.sets = rig.new_sets(record_forks=1)
    await rig.record("s-1")
    assert "recall" not in await rig.until("working_set.made")


def merge(rig: Rig) -> Merge:
    return Merge(rig.source.image, DIGEST, [rig.root / "r"], rig.root / "out", 10)


@pytest.mark.parametrize("said", ["", "nonsense", '{"pages":1}', "[]"])
async def test_a_report_that_cannot_be_read_is_the_programs_fault(rig: Rig, said: str) -> None:
    rig.program(f"echo '{said}'")
    with pytest.raises(PeerError) as caught:
        await run_merge(merge(rig), rig.binary)
    assert caught.value.code is ErrorCode.VMM_PROTOCOL


async def test_a_merge_ends_at_its_deadline(rig: Rig) -> None:
    rig.program("exec sleep 600")
    with pytest.raises(TransientError, match="not done in time"):
        await run_merge(merge(rig), rig.binary, deadline_s=0.2)
