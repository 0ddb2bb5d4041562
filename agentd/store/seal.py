"""Write one template into an empty directory."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import ErrorCode, PermanentError, TransientError
from agentd.store import files
from agentd.store.copier import CHUNK_BYTES, Copier
from agentd.store.failures import OUT_OF_SPACE
from agentd.store.memfd import seal_memfd
from agentd.store.progress import Steps
from agentd.units import MIB
from agentd.wire import manifest as wire
from agentd.wire.manifest import (
    DeviceState,
    GuestFacts,
    ImageFacts,
    Machine,
    Manifest,
    MemoryImage,
    SnapshotFacts,
    VmmFacts,
)

_SPACE_MARGIN_BYTES: Final = 16 * MIB  # the manifest, metadata of the filesystem
_BLOCK_BYTES: Final = MIB
_DISK_FULL_DELAY_S: Final = 60.0


@dataclass(frozen=True)
class SealRequest:
    """A frozen guest to keep.

    memory_fd, state_fd: borrowed memfds of the RAM, of the device state. They are sealed first, so
    that what is hashed is what they hold for ever. snapshot: of a cluster, for which it is kept.
    """

    name: str
    image: ImageFacts
    machine: Machine
    vmm: VmmFacts
    guest: GuestFacts
    memory_fd: int
    state_fd: int
    snapshot: SnapshotFacts | None = None


@dataclass(frozen=True)
class Origin:
    """Who makes a template, when. created_at: RFC 3339, UTC."""

    template_id: str
    owner: str
    created_at: str


def seal_checkpoint(request: SealRequest) -> None:
    """Make the memory of a frozen guest unchangeable. Raises: PermanentError, OSError."""
    for what, fd in (("memory", request.memory_fd), ("device state", request.state_fd)):
        try:
            seal_memfd(fd)
        except OSError as exc:
            if exc.errno not in (errno.EBUSY, errno.EPERM, errno.EINVAL):
                raise
            raise PermanentError(
                ErrorCode.TEMPLATE_BUILD_FAILED,
                f"sealing the {what} of template {request.name!r} in memory failed: {exc.strerror}",
                hint="the monitor must have ended; the file must be a memfd that allows sealing",
            ) from exc


@contextmanager
def space_for(request: SealRequest, dir_fd: int, path: Path) -> Iterator[None]:
    """Refuse what does not fit before anything is written; say how much did not if it still fails.

    What the guest's memory takes now is more than what is written, by its pages that hold zeros.
    Args: dir_fd: open directory of the filesystem at path. Raises: TransientError DISK_FULL.
    """
    allocated = sum(os.fstat(fd).st_blocks * 512 for fd in (request.memory_fd, request.state_fd))
    need_bytes = allocated + _SPACE_MARGIN_BYTES
    have_bytes = files.free_bytes(dir_fd)
    if have_bytes < need_bytes:
        raise _disk_full(request.name, path, need_bytes, have_bytes, "nothing was written")
    try:
        yield
    except OSError as exc:
        if exc.errno not in OUT_OF_SPACE:
            raise
        came_back = f"writing stopped: {exc.strerror}"
        have_bytes = files.free_bytes(dir_fd)
        raise _disk_full(request.name, path, need_bytes, have_bytes, came_back) from exc


def _disk_full(
    name: str, path: Path, need_bytes: int, have_bytes: int, came_back: str
) -> TransientError:
    return TransientError(
        ErrorCode.DISK_FULL,
        f"sealing template {name!r} needs {need_bytes / MIB:.1f} MiB in {path}, "
        f"{have_bytes / MIB:.1f} MiB are free there ({came_back})",
        hint="remove templates or give the data directory more space",
        delay_s=_DISK_FULL_DELAY_S,
    )


def write_template(
    dir_fd: int, request: SealRequest, origin: Origin, copier: Copier, steps: Steps
) -> Manifest:
    """Write a template's files, the manifest last; on return they are on disk.

    Args: dir_fd: empty directory. request: sealed in memory already.
    Raises: OSError; whatever `steps` raises. What was written is the caller's to delete.
    """
    memory = _write_memory(dir_fd, request.memory_fd, copier, steps)
    state = _write_state(dir_fd, request.state_fd)
    steps.reached("device state")
    manifest = Manifest(
        format_version=wire.format_for(request.snapshot),
        template_id=origin.template_id,
        name=request.name,
        owner=origin.owner,
        created_at=origin.created_at,
        image=request.image,
        machine=request.machine,
        vmm=request.vmm,
        guest=request.guest,
        memory=memory,
        device_state=state,
        snapshot=request.snapshot,
    )
    with files.created_file(files.MANIFEST, dir_fd) as fd:
        files.write_all(fd, _encode_readable(manifest))
    os.fsync(dir_fd)
    steps.reached("manifest")
    return manifest


def _encode_readable(manifest: Manifest) -> bytes:
    """Encode a manifest that `load` will accept. Raises: PermanentError."""
    data = wire.encode(manifest)
    try:
        wire.decode(data)
    except wire.ManifestDamagedError as exc:
        raise PermanentError(
            ErrorCode.TEMPLATE_BUILD_FAILED,
            f"describing template {manifest.name!r} failed: {exc}",
            hint="the frozen guest is not usable, build it again",
        ) from exc
    return data


def _write_memory(dir_fd: int, memory_fd: int, copier: Copier, steps: Steps) -> MemoryImage:
    size_bytes = os.fstat(memory_fd).st_size
    with files.created_file(files.MEMORY, dir_fd) as fd:
        copied = copier(memory_fd, fd, size_bytes, CHUNK_BYTES, cancel_fd=steps.cancel_fd)
        steps.reached("memory", size_bytes, size_bytes)
    steps.reached("memory on disk", size_bytes, size_bytes)
    return MemoryImage(size_bytes, copied.data_bytes, CHUNK_BYTES, copied.chunk_hashes)


def _write_state(dir_fd: int, state_fd: int) -> DeviceState:
    digest = hashlib.sha256()
    at = 0
    with files.created_file(files.DEVICE_STATE, dir_fd) as fd:
        while block := os.pread(state_fd, _BLOCK_BYTES, at):
            digest.update(block)
            files.write_all(fd, block)
            at += len(block)
    return DeviceState(at, digest.hexdigest())
