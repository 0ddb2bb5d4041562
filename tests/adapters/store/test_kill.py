"""A daemon that dies at any instant leaves no half-made template."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest

import agentd.store
from agentd.store.loaded import LoadedTemplate
from agentd.store.seal import SealRequest
from agentd.store.templates import TemplateStore
from agentd.units import MIB, PAGE_BYTES
from tests.adapters.store.support import (
    Seen,
    frozen_guest,
    leftovers,
    open_store,
    page_content,
)

if TYPE_CHECKING:
    from _typeshed import TraceFunction

STORE = os.path.dirname(agentd.store.__file__)
MAX_LINES = 2000


@pytest.fixture
def tmpfs_dir() -> Iterator[Path]:
    """Where fsync(2) costs nothing; dying processes do not need it."""
    path = Path(tempfile.mkdtemp(prefix="snapstart-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def killed_at_line(number: int) -> Iterator[None]:
    """Kill this process when it is about to run that many lines of the store."""
    left = number

    def trace(frame: FrameType, event: str, _argument: object) -> TraceFunction | None:
        nonlocal left
        if not frame.f_code.co_filename.startswith(STORE):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                die()
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def survives(work: Callable[[], None]) -> bool:
    """Run in a child; False when it killed itself."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status == 0


def kill_everywhere(
    path: Path, work: Callable[[TemplateStore], None], check: Callable[[TemplateStore], None]
) -> int:
    """Kill the work before each of its lines, each time letting a successor check."""
    for number in range(MAX_LINES):

        def doomed(number: int = number) -> None:
            store = open_store(path)
            with killed_at_line(number):
                work(store)

        survived = survives(doomed)
        with open_store(path) as store:
            assert store.list_broken() == ()
            assert all(entry.startswith("templates/") for entry in leftovers(path))
            check(store)
        if survived:
            return number
    raise AssertionError("the work never ends")


def whole_names(store: TemplateStore) -> list[str]:
    """Every template, each verified to its last byte."""
    names = [stored.manifest.name for stored in store.list()]
    for name in names:
        store.verify(name)
    return names


@pytest.mark.timeout(180)
def test_killed_while_sealing_there_is_a_whole_template_or_none(tmpfs_dir: Path) -> None:
    found = []

    def check(store: TemplateStore) -> None:
        names = whole_names(store)
        found.append(len(names))
        for name in names:
            store.remove(name)

    with frozen_guest() as request:
        lines = kill_everywhere(tmpfs_dir, lambda store: _seal(store, request), check)
    assert lines > 100
    assert found == sorted(found), "once published, always there"
    assert (found[0], found[-1]) == (0, 1)


def _seal(store: TemplateStore, request: SealRequest) -> None:
    store.seal(request)


@pytest.mark.timeout(180)
def test_killed_while_removing_there_is_a_whole_template_or_none(tmpfs_dir: Path) -> None:
    with frozen_guest() as request:
        with open_store(tmpfs_dir) as store:
            store.seal(request)

        def check(store: TemplateStore) -> None:
            if not whole_names(store):
                store.seal(request)

        assert kill_everywhere(tmpfs_dir, lambda store: store.remove("python"), check) > 10


@pytest.mark.timeout(180)
def test_killed_while_recording_the_digest_it_is_there_or_not(tmpfs_dir: Path) -> None:
    recorded = []

    def check(store: TemplateStore) -> None:
        recorded.append(store.verify("python").is_recorded)
        (tmpfs_dir / "templates" / "python" / "memory.sha256").unlink(missing_ok=True)

    with frozen_guest() as request:
        with open_store(tmpfs_dir) as store:
            frozen = LoadedTemplate(store.seal(request), request.memory_fd, request.state_fd)

        def work(store: TemplateStore) -> None:
            store.write_digest(frozen)

        assert kill_everywhere(tmpfs_dir, work, check) > 50
    assert recorded == sorted(recorded)
    assert recorded[-1]


def test_killed_in_the_middle_of_the_memory_nothing_is_left(tmp_path: Path) -> None:
    def half(_src: int, dst: int, size: int, _chunk: int, *, cancel_fd: int) -> Seen:
        os.ftruncate(dst, size)
        for page in range(MIB // PAGE_BYTES):
            os.pwrite(dst, page_content(page), page * PAGE_BYTES)
        die()
        raise AssertionError("dead")

    with frozen_guest() as request:

        def doomed() -> None:
            open_store(tmp_path, half).seal(request)

        assert not survives(doomed)
        assert len(list((tmp_path / "staging").iterdir())) == 1
        with open_store(tmp_path) as store:
            assert (store.list(), store.list_broken()) == ((), ())
            assert leftovers(tmp_path) == []
            store.seal(request)
            assert whole_names(store) == ["python"]
