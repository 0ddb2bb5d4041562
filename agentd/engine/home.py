"""Find what a daemon calls its own on this host."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from pathlib import Path

from agentd.errors import ConfigError, ErrorCode


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
    if parent := find_replaceable(path, os.geteuid()):
        raise ConfigError(
            ErrorCode.PERMISSION_DENIED,
            f"using {setting} {str(path)!r}: others can replace {str(parent)!r}",
            hint=f"choose a place for {setting} that only root and you can write to",
        )


def find_replaceable(path: Path, uid: int) -> Path | None:
    """What somebody besides root and a user could replace on the way to a path, if anything.

    Parents that are not there are passed over. Raises: OSError.
    """
    for parent in path.parents:
        if not parent.exists():
            continue
        found = parent.stat()
        is_open = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in (0, uid) or is_open:
            return parent
    return None


def read_boot_id() -> str:
    """The id of the running kernel's boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_installation_id(data_dir: Path) -> str:
    """The id of the installation that a data directory belongs to, made at its first use.

    The file is of the first format: a UUID alone. A later one would begin with its number.

    It marks templates and machines, so it is needed before the store locks the directory: whoever
    is first to give it its name wins, also against another daemon that starts at the same moment.
    Raises: ConfigError.
    """
    path = data_dir / "installation-id"
    try:
        if not path.exists():
            _make_installation_id(path)
        text = path.read_text().strip()
    except OSError as exc:
        raise ConfigError(
            ErrorCode.PERMISSION_DENIED,
            f"reading {str(path)!r}: {exc.strerror}",
            hint="give the daemon's user the data directory, writable",
        ) from exc
    if (version := text.partition(" ")[0]).isdigit():
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"reading {str(path)!r}: format {version}, this program reads a UUID alone",
            hint="start the version of agentd that wrote it",
        )
    try:
        return str(uuid.UUID(text))
    except ValueError as exc:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"reading {str(path)!r}: {text!r} is not a UUID",
            hint="remove the file: templates of the former id are then not used any more",
        ) from exc


def _make_installation_id(path: Path) -> None:
    installation_id = uuid.uuid4()
    beside = path.with_name(f"{path.name}.{installation_id}")
    try:
        with beside.open("w") as stream:
            stream.write(f"{installation_id}\n")
            stream.flush()
            os.fsync(stream.fileno())  # once per installation; sealed templates carry the id
        with contextlib.suppress(FileExistsError):  # link(2), unlike rename(2), replaces nothing
            os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)
