"""Read what a machine's monitor says to a page server (Kuasar's memory mode `externaluffd`).

The server listens. The monitor of each machine that is restored connects once, sends one message,
a JSON object together with its userfaultfd (SCM_RIGHTS), and closes; nothing is answered. The
object says where guest memory lies in the monitor, and where its content is in the image: that of
the page at an address is at `offset + address - base_host_virt_addr`. It names no machine; the path
of the image does. Whoever reaches the socket can send one, so none of it is believed unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from posixpath import basename, normpath
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from agentd.errors import ErrorCode, PeerError
from agentd.units import KIB, MIB

VERSION: Final = 1
IMAGE_NAME: Final = "memory.img"
# A machine has a few ranges: below and above the hole for devices, one for each zone.
RANGES_MAX: Final = 1024
MESSAGE_MAX_BYTES: Final = MIB

_ADDRESSES: Final = 1 << 64
_FILE_END: Final = (1 << 63) - 1
_PAGE_MIN_BYTES: Final = 4 * KIB
_PAGE_MAX_BYTES: Final = 1024 * MIB
_PATH_MAX_BYTES: Final = 4096
_RESTORE_DIR: Final = "restore"
_SANDBOX_ID: Final = re.compile(r"[A-Za-z0-9_-]{12,64}")
_SHOWN: Final = 200

T = TypeVar("T")


class MemoryMapping(msgspec.Struct, frozen=True, kw_only=True):
    """A range of guest memory in the monitor; bytes. offset: of its content in the image.

    gpa: its guest physical address. zone_id: of a memory zone, None if it is in none.
    """

    base_host_virt_addr: int
    size: int
    offset: int
    page_size: int
    gpa: int
    zone_id: str | None = None


class Handshake(msgspec.Struct, frozen=True, kw_only=True):
    """One machine's message. snapshot_path: of the image, as the monitor names it."""

    version: int
    snapshot_path: str
    mappings: tuple[MemoryMapping, ...]


class ExternalFile(msgspec.Struct, frozen=True, kw_only=True):
    """Where a range's content is, if not in the snapshot; bytes."""

    path: str
    file_offset: int


class ExternalSource(msgspec.Struct, frozen=True, kw_only=True):
    """The range is in a file of its own."""

    file: ExternalFile = msgspec.field(name="ExternalFile")


class MemoryRange(msgspec.Struct, frozen=True, kw_only=True):
    """A range of guest memory in a snapshot; bytes.

    snapshot_offset: in the snapshot's file, None: right behind the range before it.
    """

    gpa: int
    size: int
    page_size: int
    virtio_mem: bool
    data_source: Literal["SnapshotFile"] | ExternalSource
    snapshot_offset: int | None = None
    zone_id: str | None = None


class MemoryManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot's `memory-ranges.manifest`. snapshot_file: a name beside it."""

    version: int
    snapshot_file: str
    entries: tuple[MemoryRange, ...]


class PageSource(Protocol):
    """Who fills the memory of machines that a sandboxer restores.

    It has to listen before the first restore, which fails otherwise, and to live as long as the
    machines: one whose pages nobody fills waits for ever. So it is a process that outlives agentd.
    """

    async def take_over(self, handshake: Handshake, userfaultfd: int, peer_pid: int) -> None:
        """Fill a machine's pages from here on; returns once that has begun.

        Args: userfaultfd: the source's own from the call on, on every path; it closes it when the
        machine is gone, never before. peer_pid: of the monitor, as the kernel told at accept
        (SO_PEERCRED); the source watches it, because the userfaultfd does not say that it ended.
        Raises: SnapStartError if the image is not what the handshake says; the fd is closed then,
        and the machine has to be ended: what it has not read yet is lost to it.
        Cancellation: as an error.
        """


class _Versioned(msgspec.Struct):
    version: int


_versions: Final = msgspec.json.Decoder(_Versioned)
_handshakes: Final = msgspec.json.Decoder(Handshake)
_manifests: Final = msgspec.json.Decoder(MemoryManifest)


def parse_handshake(message: bytes) -> Handshake:
    """What a monitor said, wholly checked: numbers, alignment, ends, no address twice.

    Args: message: all of it, up to the end of the connection.
    Raises: PeerError PROVIDER_PROTOCOL, and nothing else.
    """
    what = "reading a handshake for the page server"
    handshake = _decoded(_handshakes, message, what)
    mappings = handshake.mappings
    problem = (
        _why_no_image(handshake.snapshot_path)
        or _why_bad_count(len(mappings))
        or next(filter(None, map(_why_bad_mapping, mappings)), "")
        or _why_overlapping((one.base_host_virt_addr, one.size) for one in mappings)
    )
    if problem:
        raise _refusal(what, problem)
    return handshake


def parse_manifest(text: bytes) -> MemoryManifest:
    """What a snapshot's manifest says of its memory, as wholly checked.

    Raises: PeerError PROVIDER_PROTOCOL, and nothing else.
    """
    what = "reading the memory manifest of a snapshot"
    manifest = _decoded(_manifests, text, what)
    problem = (
        _why_no_name(manifest.snapshot_file)
        or _why_bad_count(len(manifest.entries))
        or next(filter(None, map(_why_bad_range, manifest.entries)), "")
        or _why_overlapping((one.gpa, one.size) for one in manifest.entries)
    )
    if problem:
        raise _refusal(what, problem)
    return manifest


def sandbox_id_of(snapshot_path: str) -> str:
    """The sandbox whose machine names this image: `<directory>/<sandbox id>/restore/memory.img`.

    Raises: PeerError PROVIDER_PROTOCOL for a path of another shape.
    """
    *_, sandbox_id, directory, name = ["", "", "", *snapshot_path.split("/")]
    if (directory, name) != (_RESTORE_DIR, IMAGE_NAME) or not _SANDBOX_ID.fullmatch(sandbox_id):
        found = f"{snapshot_path[:_SHOWN]!r}"
        raise _refusal("finding the sandbox of a memory image", f"{found} does not name one")
    return sandbox_id


def _decoded(decoder: msgspec.json.Decoder[T], text: bytes, what: str) -> T:
    """The version comes first: of another one nothing else is known."""
    if len(text) > MESSAGE_MAX_BYTES:
        raise _refusal(what, f"it has {len(text)} of at most {MESSAGE_MAX_BYTES} bytes")
    try:
        version = _versions.decode(text).version
        if version != VERSION:
            raise _refusal(what, f"it is of version {_shown(version)}, known is {VERSION}")
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _refusal(what, _clipped(str(exc))) from exc


def _why_no_image(path: str) -> str:
    is_full = path.startswith("/") and not path.startswith("//") and normpath(path) == path
    if is_full and basename(path) == IMAGE_NAME:
        return _why_no_path(path)
    return f"{path[:_SHOWN]!r} is not the full path of a {IMAGE_NAME}"


def _why_no_path(path: str) -> str:
    is_path = 0 < len(path.encode()) < _PATH_MAX_BYTES and "\0" not in path
    return "" if is_path else f"{path[:_SHOWN]!r} is not the path of a file"


def _why_no_name(name: str) -> str:
    is_name = name not in ("", ".", "..") and "/" not in name and "\0" not in name
    return "" if is_name else f"{name[:_SHOWN]!r} is not the name of a file"


def _why_bad_count(count: int) -> str:
    return "" if 0 < count <= RANGES_MAX else f"it has {count} ranges, want 1 to {RANGES_MAX}"


def _why_bad_mapping(one: MemoryMapping) -> str:
    return (
        _why_bad_pages(one.page_size, one.size, one.base_host_virt_addr, one.offset)
        or _why_too_far(one.base_host_virt_addr, one.size, _ADDRESSES)
        or _why_too_far(one.gpa, one.size, _ADDRESSES)
        or _why_too_far(one.offset, one.size, _FILE_END)
    )


def _why_bad_range(one: MemoryRange) -> str:
    source = one.data_source
    file = source.file if isinstance(source, ExternalSource) else None
    offsets = [one.snapshot_offset or 0, file.file_offset if file else 0]
    return (
        _why_bad_pages(one.page_size, one.size, *offsets)
        or _why_too_far(one.gpa, one.size, _ADDRESSES)
        or next(filter(None, (_why_too_far(at, one.size, _FILE_END) for at in offsets)), "")
        or ("" if file is None else _why_no_path(file.path))
    )


def _why_bad_pages(page_size: int, size: int, *places: int) -> str:
    """What is filled page by page has to be whole pages."""
    is_power = page_size & (page_size - 1) == 0
    if not (is_power and _PAGE_MIN_BYTES <= page_size <= _PAGE_MAX_BYTES):
        return f"{_shown(page_size)} is no size of a page"
    if size <= 0:
        return f"a range of {_shown(size)} bytes"
    odd = [one for one in (size, *places) if one % page_size]
    return f"{_shown(odd[0])} is no multiple of its page size {page_size}" if odd else ""


def _why_too_far(start: int, size: int, end: int) -> str:
    if start >= 0 and start + size <= end:
        return ""
    return f"{_shown(size)} bytes at {_shown(start)} are not within 0 and {end}"


def _why_overlapping(ranges: Iterable[tuple[int, int]]) -> str:
    for (start, size), (following, _) in pairwise(sorted(ranges)):
        if start + size > following:
            return f"the ranges at {start:#x} and {following:#x} overlap"
    return ""


def _clipped(text: str) -> str:
    """Both ends: what was sent may stand in the middle, where it was at the end."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 2 :]}"


def _shown(number: int) -> str:
    """Any number, shortly: whole ones of JSON have no end."""
    return str(number) if abs(number) < _ADDRESSES else f"a number of {number.bit_length()} bits"


def _refusal(what: str, problem: str) -> PeerError:
    return PeerError(
        ErrorCode.PROVIDER_PROTOCOL,
        f"{what}: {problem}",
        hint="is the Cloud Hypervisor there one with the external userfaultfd of this version?",
    )
