"""What a process is said to have allocated for itself."""

from __future__ import annotations

import mmap
import os
import subprocess

import pytest

from agentd.engine.usage import (
    available_memory_bytes,
    measure,
    measure_all,
    parse_available,
    read_private_bytes,
    total_memory_bytes,
)
from agentd.errors import InvariantError
from agentd.units import KIB, MIB

SIZE = 16 * MIB


def test_pages_that_are_only_read_are_not_private_even_to_their_only_reader() -> None:
    """The unique set size counts them: a fork alone on its template would seem to own it."""
    fd = os.memfd_create("template", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, SIZE)
        with mmap.mmap(fd, SIZE, flags=mmap.MAP_PRIVATE) as mapped:
            before = read_private_bytes(os.getpid())
            for offset in range(0, SIZE, mmap.PAGESIZE):
                assert mapped[offset] == 0
            read = read_private_bytes(os.getpid())
            for offset in range(0, SIZE, mmap.PAGESIZE):
                mapped[offset] = 1
            written = read_private_bytes(os.getpid())
    finally:
        os.close(fd)
    assert read - before < SIZE // 2
    assert written - read > SIZE // 2


def test_a_process_uses_no_more_privately_than_in_all() -> None:
    used = measure(os.getpid())
    assert used is not None
    assert 0 < used.private_bytes <= used.rss_bytes
    assert 0 < used.pss_bytes <= used.rss_bytes
    assert used.cpu_s > 0


def test_a_process_that_ended_uses_nothing() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(OSError):
        read_private_bytes(process.pid)  # a zombie
    assert measure_all([process.pid]) == [None]
    process.wait()
    with pytest.raises(OSError):
        read_private_bytes(process.pid)
    assert measure(process.pid) is None


def test_the_host_has_no_more_available_than_in_all() -> None:
    assert 0 < available_memory_bytes() <= total_memory_bytes()


def test_what_is_available_is_what_the_kernel_says() -> None:
    meminfo = b"MemTotal:       24000 kB\n"
    assert parse_available(meminfo + b"MemFree: 3 kB\nMemAvailable:   20513 kB\n") == 20513 * KIB
    with pytest.raises(InvariantError, match="without MemAvailable"):
        parse_available(meminfo)
