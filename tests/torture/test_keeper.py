"""The keeper does as systemd's file descriptor store."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .keeper import Keeper


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    """Closed with what it keeps."""
    made = Keeper(tmp_path / "notify")
    yield made
    made.close()


async def run(keeper: Keeper, body: str) -> str:
    """Run a process of the keeper's. body: of a Python program that has say(text, *fds).

    Returns: what it printed to stderr.
    """
    program = f"""
import os, socket, sys
link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
link.connect(os.environ["NOTIFY_SOCKET"])
def say(text, *fds):
    socket.send_fds(link, [text.encode()], list(fds))
{textwrap.dedent(body)}
"""
    log = keeper.path.parent / "log"
    log.write_bytes(b"")
    pid = keeper.spawn([sys.executable, "-c", program], dict(os.environ), log)
    status = (await asyncio.to_thread(os.waitpid, pid, 0))[1]
    keeper.hear()
    assert status == 0, log.read_text()
    return log.read_text().strip()


SHOW = """
assert int(os.environ["LISTEN_PID"]) == os.getpid()
names = os.environ["LISTEN_FDNAMES"].split(":") if os.environ["LISTEN_FDS"] != "0" else []
contents = [os.pread(3 + i, 100, 0).decode() for i in range(int(os.environ["LISTEN_FDS"]))]
print(*[f"{name}={text}" for name, text in zip(names, contents)], file=sys.stderr)
"""


def store(*names: str) -> str:
    """A program that has a file of each name kept, holding its name."""
    return f"""
for name in {names!r}:
    fd = os.memfd_create(name)
    os.write(fd, name.encode())
    say("FDSTORE=1\\nFDPOLL=0\\nFDNAME=" + name, fd)
"""


async def test_what_is_stored_comes_to_the_next_process(keeper: Keeper) -> None:
    await run(keeper, store("a", "b"))
    assert await run(keeper, SHOW) == "a=a b=b"
    assert await run(keeper, SHOW) == "a=a b=b"


async def test_nothing_stored_is_nothing_handed_on(keeper: Keeper) -> None:
    assert await run(keeper, SHOW) == ""


async def test_many_descriptors_keep_their_order(keeper: Keeper) -> None:
    names = [f"n{number}" for number in range(60)]
    await run(keeper, store(*names))
    assert await run(keeper, SHOW) == " ".join(f"{name}={name}" for name in names)


async def test_removed_name_is_closed(keeper: Keeper) -> None:
    before = len(os.listdir("/proc/self/fd"))
    await run(keeper, store("a", "b") + 'say("FDSTOREREMOVE=1\\nFDNAME=a")')
    assert await run(keeper, SHOW) == "b=b"
    assert len(os.listdir("/proc/self/fd")) == before + 1


async def test_same_file_under_one_name_is_kept_once(keeper: Keeper) -> None:
    await run(keeper, store("a") + 'say("FDSTORE=1\\nFDNAME=a", fd)')
    assert [one.name for one in keeper.kept] == ["a"]


async def test_barrier_is_answered_after_what_came_before(keeper: Keeper) -> None:
    """Its descriptor is closed when the store has everything."""
    await run(
        keeper,
        store("a") + 'r, w = os.pipe()\nsay("BARRIER=1", w)\nos.close(w)\nassert not os.read(r, 1)',
    )
    assert [one.name for one in keeper.kept] == ["a"]


async def test_readiness_is_of_the_process_that_runs(keeper: Keeper) -> None:
    await run(keeper, 'say("READY=1")')
    assert keeper.is_ready.is_set()
    await run(keeper, "")
    assert not keeper.is_ready.is_set()


async def test_strangers_are_not_heard(keeper: Keeper) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.connect(str(keeper.path))
        with open(os.devnull, "rb") as file:  # noqa: ASYNC230
            socket.send_fds(link, [b"FDSTORE=1\nFDNAME=x"], [file.fileno()])
    keeper.hear()
    assert keeper.kept == []
