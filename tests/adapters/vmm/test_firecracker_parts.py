"""The console that a monitor writes to, the wait for its socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, TransientError
from agentd.vmm.firecracker_arrival import Arrivals
from agentd.vmm.firecracker_console import CONSOLE_BYTES, create_console, read_tail, read_tail_of
from tests.conftest import open_fds

# -- console --------------------------------------------------------------------------------------


def write_as_child(fd: int, code: str) -> subprocess.Popen[bytes]:
    """A process whose standard output that is."""
    return subprocess.Popen([sys.executable, "-c", code], stdout=fd, stdin=subprocess.PIPE)


def test_the_tail_is_what_was_written_last() -> None:
    fd = create_console("s-1")
    assert read_tail(fd) == ""
    with write_as_child(fd, "print('first'); print('x' * 5000, end='last')"):
        pass
    tail = read_tail(fd)
    assert len(tail) == 4096
    assert tail.endswith("xxxlast")
    os.close(fd)


def test_the_tail_of_a_process_is_found_without_its_descriptor() -> None:
    fd = create_console("s-1")
    code = "import sys; print('hello', flush=True); sys.stdin.read()"
    with write_as_child(fd, code) as child:
        while not read_tail(fd):
            pass
        os.close(fd)
        assert read_tail_of(child.pid) == "hello\n"
        assert child.stdin is not None
        child.stdin.close()
        child.wait()
        assert read_tail_of(child.pid) == ""


def test_a_console_is_full_at_its_size_and_keeps_what_it_has() -> None:
    fd = create_console("s-1")
    os.lseek(fd, CONSOLE_BYTES - 4, os.SEEK_SET)
    assert os.write(fd, b"last words") == 4
    with pytest.raises(PermissionError):
        os.write(fd, b"more")
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    assert read_tail(fd).endswith("last")
    assert os.fstat(fd).st_blocks * 512 < 65536
    os.close(fd)


# -- arrival --------------------------------------------------------------------------------------


@asynccontextmanager
async def arrivals() -> AsyncIterator[Arrivals]:
    made = Arrivals()
    try:
        yield made
    finally:
        made.close()


async def test_a_socket_that_is_there_needs_no_wait(tmp_path: Path) -> None:
    path = tmp_path / "api"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with arrivals() as watch:
            await watch.wait(path, deadline_s=5)


async def test_the_wait_ends_when_somebody_listens_not_when_the_file_appears(
    tmp_path: Path,
) -> None:
    path = tmp_path / "api"
    async with arrivals() as watch:
        waiting = asyncio.create_task(watch.wait(path, deadline_s=10))
        await asyncio.sleep(0.02)
        (tmp_path / "other").touch()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            await asyncio.sleep(0.02)
            assert not waiting.done()
            listener.listen()
            await waiting


async def test_several_directories_are_watched_by_one_instance(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) / "api" for number in range(3)]
    for path in paths:
        path.parent.mkdir()
    async with arrivals() as watch:
        waiting = [asyncio.create_task(watch.wait(path, deadline_s=10)) for path in paths]
        await asyncio.sleep(0.02)
        assert sum("inotify" in text for text in open_fds().values()) == 1
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(paths[1]))
            listener.listen()
            await waiting[1]
            assert not waiting[0].done()
            assert not waiting[2].done()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_wait_in_vain_says_for_what(tmp_path: Path) -> None:
    async with arrivals() as watch:
        with pytest.raises(TransientError, match="nobody listens on it after") as caught:
            await watch.wait(tmp_path / "api", deadline_s=0.05)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert str(tmp_path / "api") in caught.value.message


async def test_a_directory_that_is_gone_or_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "api").touch()
    async with arrivals() as watch:
        with pytest.raises(OSError) as caught:
            await watch.wait(tmp_path / "none/api", deadline_s=5)
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(OSError) as caught:
            await watch.wait(tmp_path / "api", deadline_s=5)
        assert caught.value.errno == errno.ENOTSOCK


def test_another_event_loop_gets_a_watch_of_its_own(tmp_path: Path) -> None:
    watch = Arrivals()
    for _ in range(2):
        with pytest.raises(TransientError):
            asyncio.run(watch.wait(tmp_path / "api", deadline_s=0.05))
    watch.close()
    watch.close()
