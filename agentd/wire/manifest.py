"""Define the manifest that describes one sealed template."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from agentd.units import MIB

# Format 2 may name the snapshot of a cluster that a template is an artifact of. Templates without
# one are written in format 1, which older programs read.
FORMAT_VERSION: Final = 2
READABLE_VERSIONS: Final = (1, FORMAT_VERSION)
MAX_BYTES: Final = 32 * MIB  # 2 TiB of guest memory, with some room
_CHUNK_HASH: Final = re.compile(r"[0-9a-f]{16}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_HEAD: Final = b'{"sha256":"'
_MIDDLE: Final = b'","manifest":'
_TAIL: Final = b"}\n"
_BODY_AT: Final = len(_HEAD) + 64 + len(_MIDDLE)


class _Owned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Input written by us: an unknown member means a damaged file or a newer program."""


class Machine(_Owned, frozen=True):
    """The shape of the virtual machine."""

    memory_mib: int
    vcpus: int


class VmmFacts(_Owned, frozen=True):
    """What must be equal between the monitor that saved a template and the one that forks it.

    device_argv: the arguments that shape the guest-visible machine, in order, without paths, fds
    or names of one VM. host_cpu: model name plus a digest of the feature flags. host_tsc_khz:
    under TCG the guest's TSC runs at the host's frequency.
    """

    engine: str
    version: str
    accel: str
    machine_type: str
    cpu: str
    device_argv: tuple[str, ...]
    host_cpu: str
    host_tsc_khz: int


class ImageFacts(_Owned, frozen=True):
    """The guest image that a template was booted from."""

    key: str
    kernel_release: str


class GuestFacts(_Owned, frozen=True):
    """What the guest said of itself at its checkpoint."""

    runtime_version: str
    python: str
    preloaded: tuple[str, ...]


class MemoryImage(_Owned, frozen=True):
    """The sparse file that holds the guest's RAM.

    chunk_hashes: XXH3-64, hex, one for each chunk_bytes of size_bytes (see `native.h`).
    """

    size_bytes: int
    data_bytes: int
    chunk_bytes: int
    chunk_hashes: tuple[str, ...]


class DeviceState(_Owned, frozen=True):
    """The file that holds the state of the virtual devices."""

    size_bytes: int
    sha256: str


class SnapshotFacts(_Owned, frozen=True):
    """The snapshot of a cluster for which a template was made; its key is the template's name.

    cluster: UID of the cluster's kube-system namespace. hash: of what was snapshotted.
    """

    cluster: str
    namespace: str
    name: str
    uid: str
    hash: str


class Manifest(_Owned, frozen=True, omit_defaults=True):
    """One sealed template.

    owner: the installation that made it. created_at: RFC 3339, UTC. snapshot: None if it was made
    by order of nobody but this node.
    """

    format_version: int
    template_id: str
    name: str
    owner: str
    created_at: str
    image: ImageFacts
    machine: Machine
    vmm: VmmFacts
    guest: GuestFacts
    memory: MemoryImage
    device_state: DeviceState
    snapshot: SnapshotFacts | None = None


class ManifestDamagedError(ValueError):
    """The bytes are not what `encode` wrote."""


class ManifestVersionError(ValueError):
    """The bytes are sound, but of a format that this program does not read."""


class _Versioned(msgspec.Struct, frozen=True):
    """What every format has in common."""

    format_version: int


def format_for(snapshot: SnapshotFacts | None) -> int:
    """The oldest format that can say it."""
    return 1 if snapshot is None else FORMAT_VERSION


def encode(manifest: Manifest) -> bytes:
    """Write a manifest with its own SHA-256: the text of `manifest.json`."""
    return _frame(msgspec.json.encode(manifest))


def decode(data: bytes) -> Manifest:
    """Read the text of `manifest.json`.

    The frame is rebuilt and compared as a whole, so that no byte of the file is outside the check,
    not even white space or the case of a digit.
    Raises: ManifestDamagedError, ManifestVersionError.
    """
    body = data[_BODY_AT : -len(_TAIL)]
    if _frame(body) != data:
        raise ManifestDamagedError(f"its {len(data)} bytes do not have the SHA-256 they begin with")
    try:
        version = msgspec.json.decode(body, type=_Versioned).format_version
        if version not in READABLE_VERSIONS:
            raise ManifestVersionError(
                f"format {version}, this program reads formats up to {FORMAT_VERSION}"
            )
        manifest = msgspec.json.decode(body, type=Manifest)
    except msgspec.MsgspecError as exc:
        raise ManifestDamagedError(str(exc)) from exc
    _check(manifest)
    return manifest


def _frame(body: bytes) -> bytes:
    return _HEAD + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _TAIL


def _check(manifest: Manifest) -> None:
    """What the types do not say. Raises: ManifestDamagedError."""
    memory, state = manifest.memory, manifest.device_state
    if manifest.snapshot is not None and manifest.format_version == 1:
        raise ManifestDamagedError("format 1 names no snapshot")
    if memory.chunk_bytes <= 0 or memory.size_bytes <= 0 or state.size_bytes < 0:
        raise ManifestDamagedError("a size is not positive")
    if not 0 <= memory.data_bytes <= memory.size_bytes:
        raise ManifestDamagedError("there is more data than memory")
    if len(memory.chunk_hashes) != -(-memory.size_bytes // memory.chunk_bytes):
        raise ManifestDamagedError("the number of chunk hashes does not fit the memory")
    if not all(_CHUNK_HASH.fullmatch(value) for value in memory.chunk_hashes):
        raise ManifestDamagedError("a chunk hash is not 16 hexadecimal digits")
    if not _SHA256.fullmatch(state.sha256):
        raise ManifestDamagedError("the SHA-256 of the device state is not 64 hexadecimal digits")
