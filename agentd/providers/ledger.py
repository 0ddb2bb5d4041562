"""Remember on whose behalf artifacts were ordered of a provider that does not.

One file for each key, which is its name. No key begins with a dot; what does is a record that is
being written. A record appears whole or not at all, and is on disk before its order is given. A
file that is there but is no record is told apart from none: somebody had the artifact made.
"""

from __future__ import annotations

import enum
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from agentd.errors import ConfigError, ErrorCode
from agentd.providers.driver import SnapshotOwner
from agentd.store import files
from agentd.store.failures import READING, WRITING, translated
from agentd.units import MIB
from controlplane.api.types import SnapshotMode

_MAX_BYTES: Final = MIB
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class OrderState(enum.StrEnum):
    """What is known of an order's outcome."""

    ORDERED = "ordered"
    MADE = "made"


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One artifact that was ordered.

    ordered_at, made_at: aware; the latter None until it was seen. unheard_at: when the last earlier
    order of this key was given that may still be carried out besides. template_ids: of what was
    seen; empty where the provider does not tell.
    """

    version: Literal[1] = 1
    key: str
    snapshot_hash: str
    mode: SnapshotMode
    owner: SnapshotOwner
    pod_uid: str
    state: OrderState
    ordered_at: _Moment
    made_at: _Moment | None = None
    unheard_at: _Moment | None = None
    template_ids: tuple[str, ...] = ()


class _Versioned(msgspec.Struct, frozen=True):
    """What every format of a record has in common."""

    version: int


@dataclass(frozen=True)
class DamagedOrder:
    """A record of which nothing but its key is known."""

    key: str
    why: str


Record = Order | DamagedOrder


class Ledger:
    """The records in one directory; keys are checked by the caller.

    Every call blocks for the disk, is whole to others, and may be made from any thread or process.
    Raises, from every method: ConfigError PERMISSION_DENIED when the directory is not this user's
    alone; TransientError DISK_FULL, NODE_FULL; PermanentError when it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        """Make the directory if need be; drop what a killed daemon left half-written."""
        self.path = path
        with translated(f"making the ledger {str(path)!r}", WRITING):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._opened("cleaning", WRITING) as dir_fd:
            for name in os.listdir(dir_fd):
                if name.startswith("."):
                    os.unlink(name, dir_fd=dir_fd)

    def find(self, key: str) -> Record | None:
        """The record of a key."""
        with self._opened("reading", READING) as dir_fd:
            return _read(dir_fd, key)

    def all(self) -> dict[str, Record]:
        """Every record by its key."""
        with self._opened("reading", READING) as dir_fd:
            keys = [name for name in os.listdir(dir_fd) if not name.startswith(".")]
            found = {key: _read(dir_fd, key) for key in keys}
        return {key: record for key, record in found.items() if record is not None}

    def put(self, order: Order) -> None:
        """Keep a record in the place of its key's former one; on return it is on disk."""
        beside = f".{order.key}"
        with self._opened("writing", WRITING) as dir_fd:
            with suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=dir_fd)
            with files.created_file(beside, dir_fd) as fd:
                files.write_all(fd, msgspec.json.encode(order) + b"\n")
            os.rename(beside, order.key, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            os.fsync(dir_fd)

    def forget(self, record: Record) -> None:
        """Drop a record, unless its key has another one by now."""
        with self._opened("writing", WRITING) as dir_fd:
            if _read(dir_fd, record.key) == record:
                os.unlink(record.key, dir_fd=dir_fd)
                os.fsync(dir_fd)

    @contextmanager
    def _opened(self, doing: str, codes: Mapping[int, ErrorCode]) -> Iterator[int]:
        what = f"{doing} the ledger {str(self.path)!r}"
        with translated(what, codes):
            try:
                with files.opened_dir(str(self.path.resolve())) as dir_fd:
                    fcntl.flock(dir_fd, fcntl.LOCK_EX)  # released with the descriptor
                    yield dir_fd
            except files.UntrustedFileError as exc:
                raise ConfigError(
                    ErrorCode.PERMISSION_DENIED,
                    f"{what}: {exc}",
                    hint="make it the daemon user's own, with mode 700",
                ) from exc


def _read(dir_fd: int, key: str) -> Record | None:
    try:
        with files.opened_file(key, dir_fd) as (fd, _):
            text = files.read_all(fd, _MAX_BYTES)
        version = msgspec.json.decode(text, type=_Versioned).version
        if version != 1:
            return DamagedOrder(key, f"it is of format {version}, this program reads format 1")
        order = msgspec.json.decode(text, type=Order)
    except FileNotFoundError:
        return None
    except (files.UntrustedFileError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        return DamagedOrder(key, str(exc))
    return order if order.key == key else DamagedOrder(key, f"it is about {order.key[:80]!r}")
