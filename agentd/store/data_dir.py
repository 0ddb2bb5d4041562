"""Own the data directory."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode
from agentd.store import files
from agentd.store.failures import WRITING, translated

_LOCK: Final = "lock"
_PID_DIGITS: Final = 32


class DataDir:
    """A locked data directory: `templates/`, `staging/`, `trash/`; whatever an earlier owner left
    unfinished in the last two is deleted on opening.

    templates_fd, staging_fd: open directories, owned by this object until `close`.
    """

    def __init__(self, path: Path) -> None:
        """Create, lock, clean the directory.

        Raises: ConfigError CONFIG_INVALID when another process owns it, PERMISSION_DENIED when it
        is not this user's alone; TransientError DISK_FULL.
        """
        self.path = path
        self._owned = ExitStack()
        with (
            self._owned,
            translated(f"opening the data directory {path}", WRITING, ErrorCode.CONFIG_INVALID),
        ):
            self._open()
            self._owned = self._owned.pop_all()

    def _open(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # The operator may have put a symbolic link here, nobody may below.
            root_fd = self._owned.enter_context(files.opened_dir(str(self.path.resolve())))
            self._owned.callback(os.close, _lock(root_fd, self.path))
            self.templates_fd = self._subdirectory("templates", root_fd)
            self.staging_fd = self._subdirectory("staging", root_fd)
            self._trash_fd = self._subdirectory("trash", root_fd)
        except files.UntrustedFileError as exc:
            raise ConfigError(
                ErrorCode.PERMISSION_DENIED,
                f"the data directory {self.path} is not safe to use: {exc}",
                hint="make it the daemon user's own, with mode 700",
            ) from exc
        _delete_children(self.staging_fd)
        _delete_children(self._trash_fd)
        os.fsync(root_fd)

    def _subdirectory(self, name: str, root_fd: int) -> int:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=root_fd)
        return self._owned.enter_context(files.opened_dir(name, root_fd))

    def new_stage(self) -> str:
        """Name and create an empty directory in `staging/`. Raises: OSError."""
        name = str(uuid.uuid4())
        os.mkdir(name, 0o700, dir_fd=self.staging_fd)
        return name

    def delete_stage(self, name: str) -> None:
        """Delete what is left of a staging directory; what resists goes when the store opens."""
        shutil.rmtree(name, ignore_errors=True, dir_fd=self.staging_fd)

    def publish(self, stage: str, name: str) -> None:
        """Give a complete staging directory its name under `templates/`, in one step.

        rename(2) puts a directory in the place of another only if that one is empty, which no
        template is. Raises: FileExistsError or OSError ENOTEMPTY when the name is taken.
        """
        os.rename(stage, name, src_dir_fd=self.staging_fd, dst_dir_fd=self.templates_fd)

    def sync_names(self) -> None:
        """Make names that were given or taken survive a power failure. Raises: OSError."""
        os.fsync(self.templates_fd)
        os.fsync(self.staging_fd)

    def discard(self, name: str) -> str:
        """Take a name out of `templates/`, in one step.

        Returns: the name in `trash/`. Raises: OSError.
        """
        trash_name = str(uuid.uuid4())
        os.rename(name, trash_name, src_dir_fd=self.templates_fd, dst_dir_fd=self._trash_fd)
        return trash_name

    def delete_discarded(self, trash_name: str) -> None:
        """Give the space back; what resists goes when the store opens."""
        _delete(trash_name, self._trash_fd)

    def close(self) -> None:
        """Release the lock. Idempotent."""
        self._owned.close()
        self.templates_fd = self.staging_fd = self._trash_fd = -1


def _lock(root_fd: int, path: Path) -> int:
    """Lock the directory for this process, leaving its pid for others to read.

    flock(2), not fcntl locks: it belongs to the open file, so a second store in this same process
    is refused too, and the kernel drops it with the process, however that ends.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(_LOCK, flags, 0o600, dir_fd=root_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as exc:
        holder = os.pread(fd, _PID_DIGITS, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"the data directory {path} is in use by the process with pid {holder}",
            hint="stop that process or give this one a data directory of its own",
        ) from exc
    except BaseException:
        os.close(fd)
        raise
    return fd


def _delete_children(dir_fd: int) -> None:
    for name in os.listdir(dir_fd):
        _delete(name, dir_fd)


def _delete(name: str, dir_fd: int) -> None:
    with suppress(OSError):
        if stat.S_ISDIR(os.lstat(name, dir_fd=dir_fd).st_mode):
            shutil.rmtree(name, ignore_errors=True, dir_fd=dir_fd)
        else:
            os.unlink(name, dir_fd=dir_fd)
