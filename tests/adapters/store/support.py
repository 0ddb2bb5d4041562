"""Guests to freeze; a copier that is easy to believe."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agentd.store.copier import Copier
from agentd.store.loaded import LoadedTemplate
from agentd.store.progress import Progress
from agentd.store.seal import SealRequest
from agentd.store.templates import TemplateStore
from agentd.units import MIB, PAGE_BYTES
from tests.unit.store.samples import GUEST, IMAGE, MACHINE, VMM

OWNER = "node-1"
ZERO_PAGE = bytes(PAGE_BYTES)
SIZE_BYTES = 7 * MIB  # three chunks of 2 MiB and a half
DATA_PAGES = (0, 1, 2, 511, 512, 1000, 1535, 1791)  # nothing in the third chunk but zeros
CLEARED_PAGES = (3, 1100, 1101)  # allocated, zero


@dataclass(frozen=True)
class Seen:
    """What the reference copier saw."""

    data_bytes: int
    chunk_hashes: tuple[str, ...]


def reference_copy(
    src_fd: int, dst_fd: int, size_bytes: int, chunk_bytes: int, *, cancel_fd: int
) -> Seen:
    """What a copier must do, page by page; the hash is another than the native core's."""
    if dst_fd >= 0:
        os.ftruncate(dst_fd, size_bytes)
    hashes, data_bytes = [], 0
    for chunk in range(0, size_bytes, chunk_bytes):
        if cancel_fd >= 0 and select.select([cancel_fd], [], [], 0)[0]:
            raise OSError(errno.ECANCELED, "cancelled")
        digest = hashlib.blake2b(digest_size=8)
        for at in range(chunk, min(chunk + chunk_bytes, size_bytes), PAGE_BYTES):
            page = os.pread(src_fd, PAGE_BYTES, at)
            if len(page) < PAGE_BYTES:
                raise OSError(errno.ENODATA, "short")
            if page == ZERO_PAGE:
                continue
            digest.update((at // PAGE_BYTES).to_bytes(8, "little") + page)
            data_bytes += PAGE_BYTES
            if dst_fd >= 0:
                os.pwrite(dst_fd, page, at)
        hashes.append(digest.hexdigest())
    return Seen(data_bytes, tuple(hashes))


def page_content(page: int) -> bytes:
    """A page that is like no other."""
    return (page + 1).to_bytes(8, "little") * (PAGE_BYTES // 8)


def make_memory(size_bytes: int = SIZE_BYTES) -> int:
    """The RAM of a guest: data, holes, pages that were cleared again."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    for page in DATA_PAGES:
        os.pwrite(fd, page_content(page), page * PAGE_BYTES)
    for page in CLEARED_PAGES:
        os.pwrite(fd, ZERO_PAGE, page * PAGE_BYTES)
    return fd


def make_state(content: bytes = b"device state \x00\xff" * 1000) -> int:
    """The state of a guest's devices."""
    fd = os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    return fd


@contextmanager
def frozen_guest(name: str = "python") -> Iterator[SealRequest]:
    """A request to seal a guest, whose memory lives as long as the block."""
    with ExitStack() as stack:
        memory_fd, state_fd = make_memory(), make_state()
        stack.callback(os.close, memory_fd)
        stack.callback(os.close, state_fd)
        yield SealRequest(name, IMAGE, MACHINE, VMM, GUEST, memory_fd, state_fd)


def open_store(path: Path, copier: Copier = reference_copy) -> TemplateStore:
    """A store of this installation."""
    return TemplateStore(
        path, owner=OWNER, copier=copier, clock=lambda: datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    )


def seal_one(path: Path, name: str = "python", copier: Copier = reference_copy) -> Path:
    """Seal one template; returns its directory. Nothing holds the store any more."""
    with open_store(path, copier) as store, frozen_guest(name) as request:
        store.seal(request)
    return path / "templates" / name


@contextmanager
def closing(template: LoadedTemplate) -> Iterator[LoadedTemplate]:
    """Give a template's memory back at the end."""
    try:
        yield template
    finally:
        template.close()


def content(fd: int) -> bytes:
    """Everything in a file."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def leftovers(path: Path) -> list[str]:
    """What a store holds beside its lock and its complete templates."""
    return sorted(
        str(found.relative_to(path))
        for area in ("templates", "staging", "trash")
        for found in (path / area).iterdir()
    )


class At:
    """Does something when sealing reaches a step; remembers every step."""

    def __init__(self, number: int, action: Callable[[], None]) -> None:
        self.stages: list[str] = []
        self._number = number
        self._action = action

    def __call__(self, progress: Progress) -> None:
        self.stages.append(progress.stage)
        if len(self.stages) == self._number + 1:
            self._action()


def fail_with(number: int) -> Callable[[], None]:
    """An action that fails like a system call."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def map_shared(fd: int, *, writable: bool) -> mmap.mmap:
    """A mapping that the file's other users would see the changes of."""
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=access)
