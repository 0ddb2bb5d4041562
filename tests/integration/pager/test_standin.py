"""The stand-in machine says what monitors say, and sees every wrong byte."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.torture.programs import Programs
from tests.torture.standin import MachineOrder, Said, StandIn

from .page_server import PAGE, HandOverSocket, Mistake, PageServer, Received, readable

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="userfaultfds of a guest's memory need root"
)

SEED = 77
PAGES = 384
REGIONS = f"{256 * PAGE},{128 * PAGE}"
MASK = 2**64 - 1


@dataclass(frozen=True)
class Place:
    """What one test has."""

    programs: Programs
    directory: Path

    @property
    def image(self) -> Path:
        return self.directory / "image"

    @property
    def socket(self) -> Path:
        return self.directory / "sock"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def order(self, protocol: str, *options: str) -> MachineOrder:
        return MachineOrder(self.socket, protocol, self.image, REGIONS, 5, options)


@pytest.fixture
def place(programs: Programs, tmp_path: Path) -> Place:
    """With an image of which two fifths are holes."""
    made = Place(programs, tmp_path)
    command = [str(programs.image), "--seed", str(SEED), "--pages", str(PAGES)]
    subprocess.run([*command, "--zero-share", "0.4", str(made.image)], check=True)
    return made


@pytest.fixture
def listening(place: Place) -> Iterator[HandOverSocket]:
    """For the machine to connect to."""
    with HandOverSocket(place.socket) as opened:
        yield opened


@asynccontextmanager
async def machine_of(place: Place, protocol: str, *options: str) -> AsyncIterator[StandIn]:
    """A machine whose memory is mapped."""
    order = place.order(protocol, *options)
    async with await StandIn.start(place.programs.machine, order, log_file=place.log) as machine:
        assert (await machine.say("map")).ok
        yield machine


async def handed_over(machine: StandIn, listening: HandOverSocket, *, fds: int = 1) -> Received:
    said, received = await asyncio.gather(machine.say("connect"), listening.receive(fds=fds))
    assert said.ok
    return received


def splitmix64(x: int) -> int:
    """As its author published it (https://prng.di.unimi.it/splitmix64.c), state x."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


# -- the image ------------------------------------------------------------------------------------


def test_image_holds_its_pattern_or_holes(place: Place) -> None:
    content = place.image.read_bytes()
    assert len(content) == PAGES * PAGE
    zeros = 0
    for page in range(PAGES):
        words = struct.unpack_from("=512Q", content, page * PAGE)
        if any(words):
            assert words == tuple(splitmix64(SEED ^ (page * 512 + k)) for k in range(512))
        else:
            zeros += 1
    assert 0.2 * PAGES < zeros < 0.6 * PAGES
    assert place.image.stat().st_blocks * 512 < (PAGES - zeros / 2) * PAGE


def test_image_of_another_making_is_refused(place: Place) -> None:
    place.image.write_bytes(b"x" * PAGES * PAGE)
    argv = place.order("firecracker").argv(place.programs.machine)
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"none of standin_image's" in done.stderr


# -- what it says ---------------------------------------------------------------------------------


def regions_of(said: Any) -> list[dict[str, Any]]:
    """The list of regions of any dialect, without their addresses."""
    listed: list[dict[str, Any]] = said
    if isinstance(said, dict):
        listed = said["mappings" if "mappings" in said else "regions"]
    assert all(one.pop("base_host_virt_addr") % PAGE == 0 for one in listed)
    return listed


def features_of(uffd: int) -> int:
    """What its owner asked for with UFFDIO_API."""
    about = Path(f"/proc/self/fdinfo/{uffd}").read_text()
    api = next(line for line in about.splitlines() if line.startswith("API:"))
    return int(api.split(":")[2], 16) & 0xFFFF


def count_userfaultfds(pid: int) -> int:
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return links.count("anon_inode:[userfaultfd]")


SIZES = ({"size": 256 * PAGE, "offset": 0}, {"size": 128 * PAGE, "offset": 256 * PAGE})


async def test_firecracker_says_both_page_sizes_in_bytes(
    place: Place, listening: HandOverSocket
) -> None:
    async with machine_of(place, "firecracker") as machine:
        received = await handed_over(machine, listening)
        expected = [{**size, "page_size": PAGE, "page_size_kib": PAGE} for size in SIZES]
        assert regions_of(received.said) == expected
        assert received.fds_in == [1]
        assert not await listening.has_ended()


async def test_old_firecracker_says_only_the_old_page_size(
    place: Place, listening: HandOverSocket
) -> None:
    async with machine_of(place, "firecracker-old", "--closes") as machine:
        received = await handed_over(machine, listening)
        assert regions_of(received.said) == [{**size, "page_size_kib": PAGE} for size in SIZES]
        assert await listening.has_ended()


async def test_kuasar_names_its_image_then_closes(place: Place, listening: HandOverSocket) -> None:
    async with machine_of(place, "kuasar") as machine:
        received = await handed_over(machine, listening)
        said = received.said
        expected = [
            {**size, "gpa": size["offset"], "page_size": PAGE, "zone_id": None} for size in SIZES
        ]
        assert regions_of(said) == expected
        assert (said["version"], said["snapshot_path"]) == (1, str(place.image))
        assert await listening.has_ended()


async def test_memfd_hands_over_a_sealed_image_of_the_same_content(
    place: Place, listening: HandOverSocket
) -> None:
    async with machine_of(place, "memfd") as machine:
        received = await handed_over(machine, listening, fds=2)
        said = received.said
        assert (said["protocol"], said["version"]) == ("snapstart-memfd", 1)
        assert regions_of(said) == [{**size, "page_size": PAGE} for size in SIZES]
        assert os.pread(received.fds[1], PAGES * PAGE, 0) == place.image.read_bytes()
        seals = fcntl.fcntl(received.fds[1], fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_WRITE
        assert seals & fcntl.F_SEAL_SHRINK


@pytest.mark.parametrize(
    ("split", "fds_in"),
    [("first", [1, 0]), ("last", [0, 1]), ("late", [0, 1])],
    ids=["fd-with-the-first", "fd-with-the-last", "fd-after-everything"],
)
async def test_message_comes_in_two_pieces(
    place: Place, listening: HandOverSocket, split: str, fds_in: list[int]
) -> None:
    async with machine_of(place, "firecracker", "--split", split) as machine:
        received = await handed_over(machine, listening)
        if split == "first":
            assert len(received.said) == 2
        assert received.fds_in == fds_in
        assert (received.pieces[-1] == b"\n") == (split == "late")


async def test_regions_are_apart(place: Place, listening: HandOverSocket) -> None:
    async with machine_of(place, "firecracker") as machine:
        received = await handed_over(machine, listening)
        ranges = sorted((one["base_host_virt_addr"], one["size"]) for one in received.said)
        assert ranges[0][0] + ranges[0][1] < ranges[1][0]


@pytest.mark.parametrize(
    ("options", "features"),
    [((), 1 << 3), (("--no-remove-events",), 0)],
    ids=["with-removals", "without"],
)
async def test_userfaultfd_is_as_a_monitor_makes_it(
    place: Place, listening: HandOverSocket, options: tuple[str, ...], features: int
) -> None:
    async with machine_of(place, "firecracker", *options) as machine:
        received = await handed_over(machine, listening)
        assert fcntl.fcntl(received.fds[0], fcntl.F_GETFL) & os.O_NONBLOCK
        assert features_of(received.fds[0]) == features


@pytest.mark.parametrize(
    ("options", "held"), [((), 1), (("--no-hold",), 0)], ids=["holding", "letting-go"]
)
async def test_monitor_holds_its_userfaultfd_unless_told_not_to(
    place: Place, listening: HandOverSocket, options: tuple[str, ...], held: int
) -> None:
    async with machine_of(place, "firecracker", *options) as machine:
        await handed_over(machine, listening)
        assert count_userfaultfds(machine.pid) == held


async def test_nobody_listening_is_said(place: Place) -> None:
    async with machine_of(place, "firecracker") as machine:
        said = await machine.say("connect")
        assert not said.ok
        assert "connect" in said.message


# -- what it sees ---------------------------------------------------------------------------------


async def random_until(machine: StandIn, count: int, is_enough: Callable[[Said], int]) -> Said:
    """Touch pages at random until it is: pages are given back by a thread that may get no turn."""
    while True:
        said = await machine.say(f"random {count}")
        if said.wrong or is_enough(said):
            return said


async def test_right_pages_are_found_right(place: Place, listening: HandOverSocket) -> None:
    async with machine_of(place, "firecracker", "--vcpus", "3") as machine:
        received = await handed_over(machine, listening)
        with PageServer(received, place.image.read_bytes()):
            said = await random_until(machine, 3000, lambda said: said.removed_pages)
            assert (said.touches, said.wrong) == (3000, 0)
            assert said.writes
            assert said.max_ns > 0
            said = await machine.say("verify")
            assert (said.pages, said.wrong) == (PAGES, 0)
            assert await machine.quit() == 0


def neighbour(image: bytes) -> Mistake:
    return lambda page, right: image[(page ^ 1) * PAGE :][:PAGE] if any(right) else right


def one_byte(page: int, right: bytes) -> bytes:
    return right[:4000] + bytes([right[4000] ^ 1]) + right[4001:] if page == 200 else right


def stale_zero(page: int, right: bytes) -> bytes:
    return bytes(PAGE) if page == 11 else right


def stale_content(image: bytes) -> Mistake:
    return lambda page, _: image[page * PAGE :][:PAGE]


@pytest.mark.parametrize("kind", ["neighbour", "one-byte", "stale-zero", "stale-content"])
async def test_wrong_page_is_seen(place: Place, listening: HandOverSocket, kind: str) -> None:
    image = place.image.read_bytes()
    assert any(image[11 * PAGE : 12 * PAGE]), "choose another page for stale_zero"
    mistakes: dict[str, Mistake] = {
        "neighbour": neighbour(image),
        "one-byte": one_byte,
        "stale-zero": stale_zero,
        "stale-content": stale_content(image),
    }
    async with machine_of(place, "firecracker") as machine:
        received = await handed_over(machine, listening)
        with PageServer(received, image, mistake=mistakes[kind]):
            if (await machine.say("verify")).wrong == 0:
                await random_until(machine, 2000, lambda said: said.wrong)
    assert "page" in place.log.read_text()


async def test_forgotten_removal_is_seen(place: Place, listening: HandOverSocket) -> None:
    async with machine_of(place, "firecracker") as machine:
        received = await handed_over(machine, listening)
        with PageServer(received, place.image.read_bytes(), forgets_removals=True):
            said = await random_until(machine, 1000, lambda said: said.removed_pages)
            assert said.wrong + (await machine.say("verify")).wrong > 0
    assert "; that is the image" in place.log.read_text()


async def test_trace_is_followed_in_its_order(place: Place, listening: HandOverSocket) -> None:
    trace, latencies = place.directory / "trace", place.directory / "latencies"
    trace.write_text("300 w\n7 r\n7 d\n7 r\n300 r\n")
    served: list[int] = []

    def note(page: int, right: bytes) -> bytes:
        served.append(page)
        return right

    options = ("--trace", str(trace), "--latencies", str(latencies))
    async with machine_of(place, "firecracker", *options) as machine:
        received = await handed_over(machine, listening)
        with PageServer(received, place.image.read_bytes(), mistake=note):
            said = await machine.say("run")
            assert (said.touches, said.wrong) == (5, 0)
            assert served == [300, 7, 7]
            assert (await machine.say("verify")).wrong == 0
    each = struct.unpack("=5Q", latencies.read_bytes())
    assert 0 < sum(each) <= said.ns


async def test_memory_counts_what_was_touched(place: Place, listening: HandOverSocket) -> None:
    async with machine_of(place, "firecracker") as machine:
        received = await handed_over(machine, listening)
        assert (await machine.say("memory")).private_dirty_kb == 0
        with PageServer(received, place.image.read_bytes()):
            await machine.say("verify")
            assert (await machine.say("memory")).private_dirty_kb == PAGES * 4


async def test_machine_ends_with_its_parent(place: Place, listening: HandOverSocket) -> None:
    """Even while it waits in a fault that nobody serves."""
    argv = place.order("firecracker").argv(place.programs.machine)
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", 'exec 3<&0; "$@" <&3 & echo $!; wait', "sh", *argv,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert shell.stdin is not None
    assert shell.stdout is not None
    pidfd = os.pidfd_open(int(await shell.stdout.readline()))
    try:
        shell.stdin.write(b"map\nconnect\nverify\n")
        await listening.receive()
        shell.kill()
        await shell.wait()
        await readable(pidfd)
    finally:
        os.close(pidfd)
        shell.stdin.close()
