"""Hold what one start of a machine needs until it is over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from agentd.errors import ErrorCode
from agentd.image.opening import open_regular
from agentd.store.failures import WRITING, translated
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.limits import Limits

DIRECTORY: Final = "vm"
"""In a run directory: what belongs to the machine's user, of monitors that need a directory."""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Launch:
    """Descriptors of one start; `close` gives back all that was not kept.

    user: who the machine runs as, None for ourselves. Raises: OSError, from every method that opens
    something; what was opened stays owned.
    """

    def __init__(self, vm_id: str, run_dir: Path, user: tuple[int, int] | None) -> None:
        self.vm_id = vm_id
        self.run_dir = run_dir
        self.user = user
        self.inherited: dict[int, int] = {}
        self.cgroup_fd = -1
        self.log_fd = -1
        self.owned = ExitStack()
        self._kept: set[int] = set()

    @property
    def uid(self) -> int:
        """Of the machine's user."""
        return self.user[0] if self.user else os.geteuid()

    def open(self) -> None:
        """Make what the monitor expects to inherit."""
        raise NotImplementedError

    def own(self, fd: int) -> int:
        """Close this descriptor when the start is over, unless it is kept."""
        self.owned.callback(self._close_unless_kept, fd)
        return fd

    def _close_unless_kept(self, fd: int) -> None:
        if fd not in self._kept:
            os.close(fd)

    def keep(self, fd: int) -> int:
        """Hand an owned descriptor to the caller."""
        self._kept.add(fd)
        return fd

    def inherit(self, fd: int, number: int) -> None:
        """Let the machine have a borrowed descriptor under a number."""
        self.inherited[number] = fd

    def inherit_reopened(self, fd: int, number: int) -> None:
        """As `inherit`, with a read offset of its own."""
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        self.inherit(self.own(again), number)

    def inherit_file(self, path: Path, number: int) -> None:
        """Let the machine read a file that its user could not reach; no link is followed."""
        self.inherit(self.own(open_regular(path)), number)

    def close(self) -> None:
        """Give back what was not kept. Idempotent."""
        self.owned.close()


LaunchT = TypeVar("LaunchT", bound=Launch)


@contextmanager
def opened(launch: LaunchT, cgroups: CgroupTree, limits: Limits) -> Iterator[LaunchT]:
    """What one start holds, in a bounded control group; given back when it is over,
    except what was kept.
    """
    doing = f"starting machine {launch.vm_id} in {str(launch.run_dir)!r}"
    with translated(doing, WRITING, ErrorCode.CONFIG_INVALID):
        try:
            launch.cgroup_fd = cgroups.create(launch.vm_id, limits)
            if launch.cgroup_fd >= 0:
                launch.own(launch.cgroup_fd)
            launch.open()
            yield launch
        except BaseException:
            cgroups.remove(launch.vm_id)
            raise
        finally:
            launch.close()


def make_directory(path: Path, user: tuple[int, int] | None) -> int:
    """Make an empty directory of a user; returns it open, owned by the caller. Raises: OSError."""
    path.mkdir(mode=0o700)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    return _given(fd, user)


def create_file(name: str | Path, user: tuple[int, int] | None, dir_fd: int | None = None) -> int:
    """Make an empty file of a user; returns it open for writing, owned by the caller.

    Raises: OSError.
    """
    return _given(os.open(name, _CREATE, 0o600, dir_fd=dir_fd), user)


def write_file(
    directory_fd: int | None, name: str | Path, data: bytes, user: tuple[int, int] | None = None
) -> None:
    """Make a file of a user. Raises: OSError."""
    fd = create_file(name, user, directory_fd)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
    finally:
        os.close(fd)


def _given(fd: int, user: tuple[int, int] | None) -> int:
    try:
        if user is not None:
            os.fchown(fd, *user)
    except BaseException:
        os.close(fd)
        raise
    return fd
