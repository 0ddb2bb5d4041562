"""Hold the data directory for one daemon."""

from __future__ import annotations

import fcntl
import os
import stat
import uuid
from pathlib import Path

from agentd.errors import ConfigError, ErrorCode


class Home:
    """The locked data directory with the installation's id.

    The lock is flock(2) on a file that is never removed, so that it cannot be held twice; the
    kernel gives it back when this process ends, however it ends. `close` gives it back early.
    """

    def __init__(self, data_dir: Path, installation_id: str, lock_fd: int) -> None:
        self.data_dir = data_dir
        self.installation_id = installation_id
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, data_dir: Path) -> Home:
        """Make the directory if there is none, lock it, read the id.

        Raises: ConfigError if it cannot be used or another daemon holds it.
        """
        make_private_dir(data_dir, "paths.data_dir")
        fd = _lock(data_dir)
        try:
            return cls(data_dir, _installation_id(data_dir), fd)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Unlock. Idempotent."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)


def make_private_dir(path: Path, setting: str, mode: int = 0o700) -> None:
    """Make a directory of ours, or check that an existing one belongs to this user.

    Raises: ConfigError naming the setting. A directory in a shared place such as /tmp may have
    been made by somebody else to catch what we write.
    """
    try:
        path.mkdir(parents=True, mode=mode, exist_ok=True)
        owner = path.stat().st_uid
    except OSError as exc:
        raise ConfigError(
            ErrorCode.PERMISSION_DENIED,
            f"making {setting} {str(path)!r}: {exc.strerror}",
            hint=f"create it for this user, or change {setting}",
        ) from exc
    if owner != os.geteuid():
        raise ConfigError(
            ErrorCode.PERMISSION_DENIED,
            f"using {setting} {str(path)!r}: it belongs to uid {owner}",
            hint=f"change its owner to uid {os.geteuid()}, or change {setting}",
        )
    _check_parents(path, setting)


def _check_parents(path: Path, setting: str) -> None:
    """Nobody but root and this user may be able to replace what is on the way to a path."""
    for parent in path.parents:
        found = parent.stat()
        is_open = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in (0, os.geteuid()) or is_open:
            raise ConfigError(
                ErrorCode.PERMISSION_DENIED,
                f"using {setting} {str(path)!r}: others can replace {str(parent)!r}",
                hint=f"choose a place for {setting} that only root and you can write to",
            )


def read_boot_id() -> str:
    """The id of the running kernel's boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _lock(data_dir: Path) -> int:
    path = data_dir / "agentd.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"locking {str(path)!r}: another agentd uses this data directory",
            hint="stop it first, or give this one a paths.data_dir of its own",
        ) from exc
    return fd


def _installation_id(data_dir: Path) -> str:
    path = data_dir / "installation-id"
    if not path.exists():
        beside = data_dir / "installation-id.new"
        with beside.open("w") as stream:
            stream.write(f"{uuid.uuid4()}\n")
            stream.flush()
            os.fsync(stream.fileno())  # once per installation; sealed templates carry the id
        beside.rename(path)
    text = path.read_text().strip()
    try:
        return str(uuid.UUID(text))
    except ValueError as exc:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"reading {str(path)!r}: {text!r} is not a UUID",
            hint="remove the file: templates of the former id are then not used any more",
        ) from exc
