"""Keep what a successor needs to find this daemon's machines again.

Each line is `1 CRC32 JSON`: format version, checksum of the JSON in 8 hex digits, one record. A
line is one write(2) to a file opened with O_APPEND, made *before* the act it announces. It is not
synced: the page cache survives the death of this process, and when the whole machine dies the
virtual machines of which the journal speaks die with it. So it lives in the run directory, and
names the boot it belongs to.

A daemon killed in the middle of a write leaves a torn tail: bad lines with no good one after them
are dropped. A bad line *followed* by a good one cannot come from that; such a file is refused. So
is a line whose checksum is right, and which is of another version or says what this program does
not know: a newer daemon wrote it, and dropping it would end that daemon's machines.

Whoever has the journal open has the run directory: `lock` beside it is held (flock(2)) until then.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from pathlib import Path
from typing import Final

import msgspec

from agentd.engine.journal_records import JournalState, Record, apply, records_of, replay
from agentd.errors import ConfigError, ErrorCode, InvariantError, PermanentError, TransientError

_VERSION: Final = b"1"
_COMPACT_EVERY: Final = 20_000  # records; about 6 MB, rewritten in a few milliseconds


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def encode_line(record: Record) -> bytes:
    """One record as one line."""
    body = _encoder.encode(record)
    return b"%s %08x %s\n" % (_VERSION, zlib.crc32(body), body)


def decode_lines(data: bytes, where: str) -> tuple[list[Record], int]:
    """Read a journal.

    Returns: its records; how many bytes of data they take, less than all after a torn write.
    Raises: PermanentError if a bad line stands before a good one, or a whole one is not understood.
    """
    records: list[Record] = []
    good_bytes = 0
    bad_line = 0
    start = 0
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        start += len(line)
        whole = _whole_line(line)
        if whole is None:
            bad_line = bad_line or number
        elif bad_line:
            raise _corrupt(where, bad_line)
        else:
            records.append(_decode(*whole, where, number))
            good_bytes = start
    return records, good_bytes


def _whole_line(line: bytes) -> tuple[bytes, bytes] | None:
    """Version and body, if all of it was written."""
    version, _, rest = line.partition(b" ")
    checksum, _, body = rest.partition(b" ")
    if not version.isdigit() or not body.endswith(b"\n"):
        return None
    body = body[:-1]
    return (version, body) if checksum == b"%08x" % zlib.crc32(body) else None


def _decode(version: bytes, body: bytes, where: str, number: int) -> Record:
    try:
        if version == _VERSION:
            return _decoder.decode(body)
        why = f"format {version.decode()}, this program reads format {_VERSION.decode()}"
    except msgspec.DecodeError as exc:
        why = str(exc)
    raise PermanentError(
        ErrorCode.CONFIG_INVALID,
        f"reading the journal {where!r}: line {number} is another version's: {why}",
        hint="start the version of agentd that wrote it; its machines run on meanwhile",
    )


def _corrupt(where: str, line: int) -> PermanentError:
    return PermanentError(
        ErrorCode.CONFIG_INVALID,
        f"reading the journal {where!r}: line {line} is damaged, although good lines follow it",
        hint="move the file away: running machines are then ended, sealed templates stay",
    )


class Journal:
    """The open journal; one owner appends to it, `close` releases the file."""

    def __init__(self, path: Path, fd: int, lock_fd: int, state: JournalState) -> None:
        self._path = path
        self._fd = fd
        self._lock_fd = lock_fd
        self._state = state
        self._appended = 0

    @classmethod
    def open(cls, path: Path, boot_id: str) -> tuple[Journal, JournalState]:
        """Lock the directory, read the journal, rewrite it in its shortest form, open it.

        Returns: the journal; the state as the predecessor left it, with *its* boot_id.
        Raises: ConfigError if another daemon has the directory, PermanentError if the journal is
        damaged in the middle, TransientError if it cannot be kept.
        """
        lock_fd = _lock(path.with_name("lock"))
        try:
            found = replay(_read(path))
            copy = JournalState(boot_id, dict(found.vms), dict(found.templates))
            return cls(path, _rewrite(path, copy), lock_fd, copy), found
        except BaseException:
            os.close(lock_fd)
            raise

    @property
    def state(self) -> JournalState:
        """What the records say so far. Borrowed: read only."""
        return self._state

    def append(self, record: Record) -> None:
        """Write one record, whole or not at all.

        Raises: TransientError when it cannot be written; the act it announces must not happen.
        """
        if self._fd < 0:
            raise InvariantError("appending to a closed journal")
        _write_line(self._fd, encode_line(record), self._path)
        self._state = apply(self._state, record)
        self._appended += 1
        if self._appended >= _COMPACT_EVERY:
            self._compact()

    def problem(self) -> str:
        """What keeps a successor from finding machines that start now; empty if nothing does."""
        if self._fd < 0:
            return "it is closed"
        try:
            found = os.stat(self._path)
            is_same = os.path.samestat(found, os.fstat(self._fd))
            room = os.fstatvfs(self._fd).f_bavail
        except OSError as exc:
            return f"{self._path}: {exc.strerror}"
        if not is_same:
            return f"{self._path} is another file than the one that was opened"
        return "" if room else f"{self._path}: its file system is full"

    def close(self) -> None:
        """Release the file; what is in it stays for a successor. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            os.close(self._lock_fd)

    def _compact(self) -> None:
        fresh = _rewrite(self._path, self._state)
        os.close(self._fd)
        self._fd = fresh
        self._appended = 0


def _lock(path: Path) -> int:
    """Lock the run directory for this process; returns the descriptor, owned by the caller.

    Two daemons with different data directories may have been given one run directory: each would
    take the other's machines for what a dead predecessor left.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as exc:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"locking the run directory {str(path.parent)!r}: the agentd with pid {holder} uses it",
            hint="stop that daemon, or give this one a paths.run_dir of its own",
        ) from exc
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read(path: Path) -> list[Record]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    records, _ = decode_lines(data, str(path))
    return records


def _rewrite(path: Path, state: JournalState) -> int:
    """Replace the file in one step; returns it open for appending, owned by the caller."""
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(beside, flags, 0o600)
    try:
        _write_line(fd, b"".join(map(encode_line, records_of(state))), path)
        beside.rename(path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_line(fd: int, line: bytes, path: Path) -> None:
    before = os.fstat(fd).st_size
    try:
        written = os.write(fd, line)
    except OSError as exc:
        raise _unwritten(path, exc.strerror or str(exc)) from exc
    if written != len(line):
        os.ftruncate(fd, before)
        raise _unwritten(path, f"{written} of {len(line)} bytes fit")


def _unwritten(path: Path, came_back: str) -> TransientError:
    return TransientError(
        ErrorCode.DISK_FULL,
        f"writing to the journal {str(path)!r}: {came_back}",
        hint="free space on its file system",
        delay_s=5.0,
    )
