"""agentd's side of the page server, against the real one and stand-ins for machines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentd.cli.doctor_checks import Host, Level
from agentd.cli.doctor_pager import PagerNode, Probes, run_pager_checks
from agentd.errors import ErrorCode, InvariantError, PermanentError, TransientError
from agentd.pager.client import PagerClient
from agentd.pager.link import LinkLostError, exchange
from agentd.pager.places import PagerPlace
from agentd.pager.process import PagerProcess, is_running
from agentd.pager.watch import PagerWatch
from agentd.pager.working_sets import Source, WorkingSets
from agentd.wire.pager import PROCESS_ENDED, HandOver, Listen
from tests.fakes.kuasar.listener import listening

ROOT = Path(__file__).parents[3]
DIGEST = "c3" * 32
PAGES, PAGE, SEED = 512, 4096, 11

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="userfaultfds of a guest's memory need root"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page server and the stand-ins, built."""
    directory = tmp_path_factory.mktemp("native")
    make = ["make", "-s", "-C", str(ROOT / "native"), f"O={directory}", "pager", "standins"]
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


class StandIn:
    """A machine that is none: it maps, hands over, touches, checks (tests/native/pager)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def do(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()


class Node:
    """A page server under its supervisor, begun as agentd begins it."""

    def __init__(self, programs: Path, root: Path, journal: Path, pages: int = PAGES) -> None:
        self.programs = programs
        self.root = root
        self.pages = pages
        self.place = PagerPlace(programs / "snap-pager", root / "pager.sock", journal, 10.0, 2)
        self.process = PagerProcess(self.place, root / "pager.log", self.step)
        self.client = PagerClient(root / "pager.sock")
        self.told: list[tuple[str, dict[str, object]]] = []
        self.image = self.new_image("py")

    def step(self, event: str, /, **details: str | int | float) -> None:
        self.told.append((event, details))

    def new_image(self, name: str) -> Path:
        (self.root / name).mkdir()
        path = self.root / name / "memory"
        make = [
            str(self.programs / "standin_image"),
            "--seed",
            str(SEED),
            "--pages",
            str(self.pages),
        ]
        subprocess.run([*make, "--zero-share", "0.3", str(path)], check=True)
        return path

    def order(self, vm: str, protocol: HandOver = "firecracker", **more: str) -> Listen:
        image = "" if protocol == "memfd" else str(self.image)
        whole = {"image": image, "working_set": "", "record": "", **more}
        return Listen(vm=vm, socket=str(self.root / f"{vm}.sock"), protocol=protocol,
                      digest=DIGEST, **whole)  # fmt: skip

    @asynccontextmanager
    async def machine(self, order: Listen, *options: str) -> AsyncIterator[StandIn]:
        """A machine that has handed its memory over."""
        process = await asyncio.create_subprocess_exec(
            str(self.programs / "standin_vm"), "--socket", order.socket,
            "--protocol", order.protocol, "--image", str(self.image),
            "--regions", f"{self.pages * PAGE}", "--seed", str(SEED), *options,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        machine = StandIn(process)
        try:
            await machine.do("map")
            assert (await machine.do("connect"))["ok"]
            yield machine
        finally:
            await machine.end()

    async def is_sound(self, machine: StandIn) -> bool:
        """Every byte of every page is what it has to be."""
        found = await machine.do("verify")
        return found["wrong"] == 0 and found["pages"] == self.pages

    @property
    def started(self) -> list[int]:
        return [int(str(one["pid"])) for event, one in self.told if event == "pager.started"]

    def end(self) -> None:
        self.process.close()
        for pid in self.started:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)


@pytest.fixture
def journal() -> Iterator[Path]:
    """A place on a tmpfs."""
    path = Path(tempfile.mkdtemp(prefix="snapstart-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def node(programs: Path, tmp_path: Path, journal: Path) -> AsyncIterator[Node]:
    made = Node(programs, tmp_path, journal)
    try:
        await made.process.ensure()
        yield made
    finally:
        made.end()


@pytest.mark.parametrize("protocol", ["firecracker", "memfd"])
async def test_a_machine_is_served_from_its_order_to_its_end(node: Node, protocol: str) -> None:
    order = node.order("s-1", protocol)  # type: ignore[arg-type]
    await node.client.listen(order)
    await node.client.listen(order)
    async with node.machine(order) as machine:
        serving = await node.client.wait("s-1", deadline_s=10.0)
        assert (serving.vm, serving.pid, serving.pages) == ("s-1", machine.pid, PAGES)
        assert serving.why
        assert (await machine.do("random 300"))["wrong"] == 0
        (found,) = (await node.client.stats()).machines
        assert (found.vm, found.state, found.protocol) == ("s-1", "serving", protocol)
        assert found.faults > 0
        assert await node.is_sound(machine)
    await node.client.forget("s-1")
    await node.client.forget("s-1")
    assert (await node.client.stats()).machines == []


async def test_a_machine_outlives_the_death_of_its_page_server(node: Node) -> None:
    order = node.order("s-1")
    await node.client.listen(order)
    async with node.machine(order) as machine:
        await node.client.wait("s-1", deadline_s=10.0)
        before = await node.client.hello()
        os.kill(before.pid, signal.SIGKILL)
        assert (await machine.do("random 300"))["wrong"] == 0
        assert (await node.client.wait("s-1", deadline_s=10.0)).pid == machine.pid
        assert (await node.client.hello()).pid != before.pid
        assert await node.is_sound(machine)


async def test_a_machine_outlives_the_death_of_the_supervisor_too(node: Node) -> None:
    order = node.order("s-1")
    await node.client.listen(order)
    async with node.machine(order) as machine:
        await node.client.wait("s-1", deadline_s=10.0)
        os.kill(node.started[0], signal.SIGKILL)
        while is_running(node.place.control_socket):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        touching = asyncio.create_task(machine.do("random 300"))
        await node.process.ensure()
        assert len(node.started) == 2
        assert (await touching)["wrong"] == 0
        assert await node.is_sound(machine)


async def test_the_next_agentd_uses_it(node: Node) -> None:
    node.process.close()
    again = PagerProcess(node.place, node.root / "pager.log", node.step)
    assert is_running(node.place.control_socket)
    await again.ensure()
    assert len(node.started) == 1


async def test_the_first_forks_are_recorded_and_the_next_finds_its_pages_there(node: Node) -> None:
    source = Source(node.image.parent, node.image, DIGEST)
    sets = WorkingSets(node.place.binary, 1000, 2, node.step)
    trace = node.root / "trace"
    trace.write_text("".join(f"{page} {'w' if page % 5 == 0 else 'r'}\n" for page in range(100)))
    for vm_id in ("s-1", "s-2"):
        pages = sets.plan(source, vm_id)
        assert pages.record
        order = node.order(vm_id, working_set=pages.working_set, record=pages.record)
        await node.client.listen(order)
        async with node.machine(order, "--trace", str(trace)) as machine:
            await node.client.wait(vm_id, deadline_s=10.0)
            assert (await machine.do("run"))["wrong"] == 0
            await sets.end(node.client, source, vm_id, deadline_s=10.0)
        await node.client.forget(vm_id)
    while not any(event.startswith("working_set.made") for event, _ in node.told):
        assert "working_set.failed" not in dict(node.told), node.told
        await asyncio.sleep(0.01)
    made = dict(node.told)["working_set.made"]
    assert (made["pages"], made["precision"], made["recall"]) == (100, 1.0, 1.0)
    pages = sets.plan(source, "s-3")
    order = node.order("s-3", working_set=pages.working_set, record=pages.record)
    assert order.working_set
    await node.client.listen(order)
    async with node.machine(order, "--trace", str(trace)) as machine:
        await node.client.wait("s-3", deadline_s=10.0)
        assert (await machine.do("run"))["wrong"] == 0
        (found,) = [one for one in (await node.client.stats()).machines if one.vm == "s-3"]
        assert (found.working_set, found.prefetched, found.faults) == (100, 100, 0)
        assert found.covered == 1.0
        assert await node.is_sound(machine)
    await sets.close()


def evict(*paths: Path) -> None:
    """Have files leave the page cache; one on a tmpfs stays."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


async def test_a_cold_machine_runs_right_behind_the_installation_of_its_working_set(
    programs: Path, tmp_path: Path, journal: Path
) -> None:
    """It asks for what comes next again and again, and sees no other page for it."""
    node = Node(programs, tmp_path, journal, pages=16_384)
    source = Source(node.image.parent, node.image, DIGEST)
    sets = WorkingSets(node.place.binary, node.pages, 1, node.step)
    trace = node.root / "trace"
    # 37 and the number of pages have no common factor: half of them, each once, nowhere in order.
    trace.write_text("".join(f"{n * 37 % node.pages} r\n" for n in range(node.pages // 2)))
    try:
        await node.process.ensure()
        pages = sets.plan(source, "s-1")
        order = node.order("s-1", record=pages.record)
        await node.client.listen(order)
        async with node.machine(order, "--trace", str(trace)) as machine:
            await node.client.wait("s-1", deadline_s=10.0)
            assert (await machine.do("run"))["wrong"] == 0
            await sets.end(node.client, source, "s-1", deadline_s=10.0)
        await node.client.forget("s-1")
        while "working_set.made" not in dict(node.told):
            assert "working_set.failed" not in dict(node.told), node.told
            await asyncio.sleep(0.01)
        for turn in range(5):
            # What it has mapped would stay.
            os.kill((await node.client.hello()).pid, signal.SIGKILL)
            evict(node.image, source.working_set)
            order = node.order(f"c-{turn}", working_set=str(source.working_set))
            await node.client.listen(order)
            async with node.machine(order, "--trace", str(trace)) as machine:
                serving = await node.client.wait(f"c-{turn}", deadline_s=10.0)
                assert serving.method.startswith("install-"), serving
                assert (await machine.do("run"))["wrong"] == 0
                assert await node.is_sound(machine)
            await node.client.forget(f"c-{turn}")
    finally:
        await sets.close()
        node.end()


async def test_refusals_are_the_errors_they_stand_for(node: Node) -> None:
    with pytest.raises(TransientError, match="s-1") as unknown:
        await node.client.wait("s-1", deadline_s=1.0)
    assert unknown.value.code is ErrorCode.VMM_FAILED
    with pytest.raises(InvariantError):
        await node.client.listen(node.order("no name"))
    with pytest.raises(PermanentError) as missing:
        await node.client.listen(node.order("s-1", image=str(node.root / "none")))
    assert missing.value.code is ErrorCode.TEMPLATE_CORRUPT
    order = node.order("s-2")
    await node.client.listen(order)
    with pytest.raises(InvariantError):
        await node.client.listen(node.order("s-2", record=str(node.root / "r")))
    with pytest.raises(TransientError, match="handed its memory over"):
        await node.client.wait("s-2", deadline_s=5.0)


async def test_a_machine_that_is_not_recorded_has_no_record_and_goes_on(node: Node) -> None:
    order = node.order("s-1")
    await node.client.listen(order)
    async with node.machine(order) as machine:
        await node.client.wait("s-1", deadline_s=10.0)
        with pytest.raises(TransientError) as caught:
            await node.client.end_recording("s-1", deadline_s=10.0)
        assert caught.value.hint == "record another fork"
        assert await node.is_sound(machine)


async def test_a_socket_that_a_page_server_left_which_died_before_it_answered_is_removed(
    node: Node,
) -> None:
    order, answers = node.order("s-1"), 0

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answers
        request = await reader.readline()
        try:
            answer = await exchange(node.place.control_socket, request.rstrip())
        except LinkLostError:
            return
        answers += 1
        if answers == 1:
            os.kill((await node.client.hello()).pid, signal.SIGKILL)
        else:
            writer.write(answer)
            await writer.drain()

    async with listening(node.root / "relay.sock", relay):
        await PagerClient(node.root / "relay.sock").listen(order)
    assert answers > 1
    async with node.machine(order) as machine:
        await node.client.wait("s-1", deadline_s=10.0)
        assert await node.is_sound(machine)


async def test_an_end_is_told_apart_from_a_stop(node: Node) -> None:
    order = node.order("s-1")
    await node.client.listen(order)
    watch = PagerWatch(node.client, node.step, node.root / "pager.log")
    async with node.machine(order):
        await node.client.wait("s-1", deadline_s=10.0)
        await watch.look()
    while not (stopped := (await node.client.stats()).stopped):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert [(one.vm, one.reason) for one in stopped] == [("s-1", PROCESS_ENDED)]
    await watch.look()
    assert "pager.machine.failed" not in dict(node.told)


async def test_an_image_that_is_cut_stops_its_machine_and_that_is_told(node: Node) -> None:
    order = node.order("s-1")
    await node.client.listen(order)
    watch = PagerWatch(node.client, node.step, node.root / "pager.log")
    async with node.machine(order) as machine:
        await node.client.wait("s-1", deadline_s=10.0)
        await watch.look()
        os.truncate(node.image, PAGE)
        touching = asyncio.create_task(machine.do("verify"))
        while not (await node.client.stats()).stopped:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with pytest.raises(PermanentError, match="image") as caught:
            await node.client.wait("s-1", deadline_s=10.0)
        touching.cancel()
        await asyncio.gather(touching, return_exceptions=True)
    assert caught.value.code is ErrorCode.VMM_FAILED
    await watch.look()
    assert dict(node.told)["pager.machine.failed"]["vm"] == "s-1"


async def test_the_doctor_finds_nothing_missing(node: Node) -> None:
    seen = PagerNode(
        Host(Path("/"), "", node.root, {}), node.place, False, 0, 512, Probes(), lambda _words: ""
    )
    checks = await asyncio.to_thread(run_pager_checks, seen)
    found = {check.name: check for check in checks}
    assert found["keeper"].detail == f"snap-pager supervise, pid {node.started[0]}"
    sure = ("page server", "rights", "keeper", "journal", "take-over", "memlock")
    assert {name: found[name].level for name in sure} == dict.fromkeys(sure, Level.OK)
