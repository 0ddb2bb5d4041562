"""Take over what Cloud Hypervisor saved into a directory.

The files belong to the machine's user, and a monitor is not to be trusted more than its guest: they
are opened without following links while it still runs, and read once it has ended. They are not
brought to disk, because nothing of them stays: memory and state go into memfds.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd import native
from agentd.errors import ErrorCode, PeerError, TransientError
from agentd.store.memfd import create_memfd, seal_memfd
from agentd.units import MIB
from agentd.vmm.cloud_hypervisor_snapshot import (
    MAX_BYTES,
    SnapshotDamagedError,
    decode_snapshot,
    encode_snapshot,
)

CONFIG: Final = "config.json"
STATE: Final = "state.json"
MEMORY: Final = "memory-ranges"
# What a monitor may write to one file beside its machine's memory: its log, its events, what it
# saves; the console of a machine that boots. A guest whose console is full waits for it for ever.
MARGIN_BYTES: Final = 16 * MIB
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class SavedFiles:
    """The files of a snapshot, open; `close` gives them back."""

    config_fd: int
    state_fd: int
    memory_fd: int
    owned: ExitStack

    def close(self) -> None:
        """Idempotent."""
        self.owned.close()


def require_space(directory: Path, memory_bytes: int) -> None:
    """Refuse to save what does not fit, before anything is stopped. Raises: TransientError."""
    need_bytes = memory_bytes + MARGIN_BYTES
    have = os.statvfs(directory)
    have_bytes = have.f_bavail * have.f_frsize
    if have_bytes < need_bytes:
        raise TransientError(
            ErrorCode.DISK_FULL,
            f"saving a machine needs {need_bytes / MIB:.0f} MiB for a moment in "
            f"{str(directory)!r}, {have_bytes / MIB:.0f} MiB are free there",
            hint="give the run directory's filesystem more space, or the template less memory",
            delay_s=60.0,
        )


def open_saved(directory: Path, uid: int) -> SavedFiles:
    """Open the files of a snapshot. uid: who wrote them. Raises: OSError, PeerError."""
    with ExitStack() as stack:
        directory_fd = os.open(directory, _OPEN | os.O_DIRECTORY)
        stack.callback(os.close, directory_fd)
        config_fd, state_fd, memory_fd = (
            _open_file(stack, name, directory_fd, uid) for name in (CONFIG, STATE, MEMORY)
        )
        return SavedFiles(config_fd, state_fd, memory_fd, stack.pop_all())


def _open_file(stack: ExitStack, name: str, directory_fd: int, uid: int) -> int:
    try:
        fd = os.open(name, _OPEN, dir_fd=directory_fd)
    except FileNotFoundError as exc:
        raise _unusable(f"there is no {name}") from exc
    stack.callback(os.close, fd)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (uid, os.geteuid()):
        raise _unusable(f"{name} is no file of the machine's user")
    return fd


def take_over(
    saved: SavedFiles, vm_id: str, memory_bytes: int, *, deadline_ns: int, cancel_fd: int
) -> tuple[int, int]:
    """Copy memory and state into sealed memfds; blocks.

    Returns: both, owned by the caller. Raises: PeerError if the files are not whole; TransientError
    at the deadline; OSError.
    """
    blob = _read_blob(saved, memory_bytes)
    with ExitStack() as stack:
        memory_fd = _owned_memfd(stack, f"{vm_id}-memory")
        _copy(saved.memory_fd, memory_fd, memory_bytes, deadline_ns, cancel_fd)
        state_fd = _owned_memfd(stack, f"{vm_id}-state")
        left = memoryview(blob)
        while left:
            left = left[os.write(state_fd, left) :]
        seal_memfd(memory_fd)
        seal_memfd(state_fd)
        stack.pop_all()
    return memory_fd, state_fd


def _copy(src_fd: int, dst_fd: int, size_bytes: int, deadline_ns: int, cancel_fd: int) -> None:
    try:
        native.copy_memory(src_fd, dst_fd, size_bytes, deadline_ns=deadline_ns, cancel_fd=cancel_fd)
    except TimeoutError as exc:
        what = f"copying {size_bytes / MIB:.0f} MiB of memory took too long"
        raise TransientError(ErrorCode.DEADLINE_EXCEEDED, what) from exc


def _owned_memfd(stack: ExitStack, name: str) -> int:
    fd = create_memfd(name)
    stack.callback(os.close, fd)
    return fd


def _read_blob(saved: SavedFiles, memory_bytes: int) -> bytes:
    try:
        blob = encode_snapshot(_read(CONFIG, saved.config_fd), _read(STATE, saved.state_fd))
        named_bytes = decode_snapshot(blob).memory_bytes
    except SnapshotDamagedError as exc:
        raise _unusable(str(exc)) from exc
    has_bytes = os.fstat(saved.memory_fd).st_size
    if not memory_bytes == named_bytes == has_bytes:
        raise _unusable(
            f"the machine has {memory_bytes} bytes of memory, "
            f"{STATE} names {named_bytes}, {MEMORY} has {has_bytes}"
        )
    return blob


def _read(name: str, fd: int) -> bytes:
    size_bytes = os.fstat(fd).st_size
    if size_bytes > MAX_BYTES:
        raise SnapshotDamagedError(f"{name} has {size_bytes} bytes, too many for any machine")
    parts = []
    while part := os.read(fd, MIB):
        parts.append(part)
    return b"".join(parts)


def _unusable(why: str) -> PeerError:
    return PeerError(ErrorCode.VMM_PROTOCOL, f"the monitor saved what cannot be used: {why}")
