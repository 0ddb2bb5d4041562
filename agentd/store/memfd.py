"""Keep memory in files that nobody can change any more."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from agentd.errors import ErrorCode, InvariantError, PermanentError
from agentd.store.loaded import LoadedTemplate

# memfd_create(2), F_ADD_SEALS in fcntl(2): once set, a seal cannot be taken back, by nobody, and it
# belongs to the file, not to the descriptor; opening /proc/PID/fd/N again changes nothing.
SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MFD_NOEXEC_SEAL: Final = 0x0008  # Linux 6.3; Python 3.11 does not name it


def create_memfd(name: str) -> int:
    """Create an empty memfd that can be sealed; the caller owns the fd. Raises: OSError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        # Guest memory is never mapped executable, and vm.memfd_noexec=2 demands this flag.
        return os.memfd_create(f"snapstart:{name}", flags | _MFD_NOEXEC_SEAL)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    return os.memfd_create(f"snapstart:{name}", flags)


def seal_memfd(fd: int) -> None:
    """Make a memfd unchangeable. Idempotent.

    Raises: OSError: EBUSY while somebody maps it shared and writable (a monitor that still runs),
    EPERM when it was created without MFD_ALLOW_SEALING, EINVAL when it is no memfd.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except PermissionError:
        if not is_sealed(fd):  # by us before, or by somebody else just now
            raise


def is_sealed(fd: int) -> bool:
    """Whether a file can neither be written nor change its size. Raises: OSError EINVAL."""
    return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS


def check_sealed(template: LoadedTemplate) -> None:
    """Make sure that a template in memory is what was verified; four system calls, for each fork.

    Raises: InvariantError when a descriptor does not hold a sealed file; PermanentError
    TEMPLATE_CORRUPT when its size is not the manifest's.
    """
    manifest = template.manifest
    _check_one(manifest.name, "memory", template.memory_fd, manifest.memory.size_bytes)
    _check_one(manifest.name, "device state", template.state_fd, manifest.device_state.size_bytes)


def _check_one(name: str, what: str, fd: int, size_bytes: int) -> None:
    try:
        actual_bytes, sealed = os.fstat(fd).st_size, is_sealed(fd)
    except OSError as exc:
        raise InvariantError(f"the {what} of template {name!r} is no memfd: {exc}") from exc
    if not sealed:
        raise InvariantError(f"the {what} of template {name!r} is not sealed")
    if actual_bytes != size_bytes:
        raise PermanentError(
            ErrorCode.TEMPLATE_CORRUPT,
            f"the {what} of template {name!r} has {actual_bytes} bytes in memory, "
            f"its manifest says {size_bytes}",
        )
