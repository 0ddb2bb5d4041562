"""Read one template back, checking all of it."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from agentd.errors import ErrorCode, PermanentError
from agentd.store import files
from agentd.store.copier import HASH_ONLY, Copied, Copier
from agentd.store.digests import encode_digest, sha256_file
from agentd.store.failures import corrupt
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import create_memfd, seal_memfd
from agentd.store.progress import Steps
from agentd.store.read_ahead import Reading, read_ahead
from agentd.units import MIB
from agentd.wire import manifest as wire
from agentd.wire.manifest import Manifest

_BLOCK_BYTES: Final = MIB


@dataclass(frozen=True)
class Verified:
    """A template whose every byte was checked.

    sha256: of its memory. is_recorded: whether `memory.sha256` was there to confirm it.
    """

    manifest: Manifest
    sha256: str
    is_recorded: bool


def read_manifest(dir_fd: int, name: str, owner: str) -> Manifest:
    """Read a template's manifest.

    Raises: PermanentError TEMPLATE_CORRUPT, TEMPLATE_INCOMPATIBLE (of another format); OSError.
    """
    with _part(name, files.MANIFEST, dir_fd) as (fd, size_bytes):
        if size_bytes > wire.MAX_BYTES:
            raise corrupt(name, f"manifest.json has {size_bytes} bytes, too many for any manifest")
        data = files.read_all(fd, size_bytes)
    try:
        manifest = wire.decode(data)
    except wire.ManifestDamagedError as exc:
        raise corrupt(name, f"manifest.json: {exc}") from exc
    except wire.ManifestVersionError as exc:
        raise PermanentError(
            ErrorCode.TEMPLATE_INCOMPATIBLE,
            f"template {name!r}: {exc}",
            hint="use the program that made it, or remove it and build it again",
        ) from exc
    _require_ours(manifest, name, owner)
    return manifest


def check_sizes(dir_fd: int, manifest: Manifest) -> None:
    """Check that the files are there, ours, whole, without reading them.

    Raises: PermanentError TEMPLATE_CORRUPT, OSError.
    """
    for part, size_bytes in _sizes(manifest):
        with _part(manifest.name, part, dir_fd, size_bytes):
            pass


def load_template(dir_fd: int, manifest: Manifest, copier: Copier, steps: Steps) -> LoadedTemplate:
    """Copy a template into sealed memory, verifying every byte on the way.

    Returns: owned by the caller. Raises: PermanentError TEMPLATE_CORRUPT, OSError.
    """
    check_sizes(dir_fd, manifest)
    memory_fd, reading = _load_memory(dir_fd, manifest, copier, steps)
    try:
        state_fd = _load_state(dir_fd, manifest)
    except BaseException:
        os.close(memory_fd)
        raise
    return LoadedTemplate(manifest, memory_fd, state_fd, reading)


def verify_template(dir_fd: int, manifest: Manifest, copier: Copier, steps: Steps) -> Verified:
    """Read everything a template consists of without keeping it.

    Raises: PermanentError TEMPLATE_CORRUPT, OSError.
    """
    name, memory = manifest.name, manifest.memory
    if unknown := sorted(set(os.listdir(dir_fd)) - files.KNOWN):
        raise corrupt(name, f"{unknown[0]!r} does not belong in its directory")
    check_sizes(dir_fd, manifest)
    os.close(_load_state(dir_fd, manifest))
    with _part(name, files.MEMORY, dir_fd, memory.size_bytes) as (fd, size_bytes):
        _copy(manifest, fd, HASH_ONLY, copier, steps)
        sha256 = sha256_file(fd, size_bytes, "sha256", steps)
        files.drop_cache(fd)
    recorded = read_digest(dir_fd, name)
    if recorded not in (None, encode_digest(sha256)):
        raise corrupt(name, f"memory.sha256 does not confirm the memory's SHA-256, {sha256}")
    return Verified(manifest, sha256, is_recorded=recorded is not None)


def read_digest(dir_fd: int, name: str) -> bytes | None:
    """The text of `memory.sha256`, None while it was not written. Raises: as `read_manifest`."""
    if files.DIGEST not in os.listdir(dir_fd):
        return None
    with _part(name, files.DIGEST, dir_fd) as (fd, _size_bytes):
        return files.read_all(fd, len(encode_digest("0" * 64)) + 1)


def _require_ours(manifest: Manifest, name: str, owner: str) -> None:
    if manifest.name != name:
        raise corrupt(name, f"its manifest is that of template {manifest.name!r}")
    if manifest.owner != owner:
        raise corrupt(name, f"it was made by installation {manifest.owner!r}, this is {owner!r}")


def _sizes(manifest: Manifest) -> tuple[tuple[str, int], ...]:
    return (
        (files.MEMORY, manifest.memory.size_bytes),
        (files.DEVICE_STATE, manifest.device_state.size_bytes),
    )


@contextmanager
def _part(
    name: str, part: str, dir_fd: int, expected_bytes: int | None = None
) -> Iterator[tuple[int, int]]:
    """Hold one file of a template open; gives its fd with its size in bytes."""
    try:
        with files.opened_file(part, dir_fd) as (fd, status):
            if expected_bytes is not None:
                _require_size(name, part, status.st_size, expected_bytes)
            yield fd, status.st_size
    except files.UntrustedFileError as exc:
        raise corrupt(name, str(exc)) from exc
    except FileNotFoundError as exc:
        raise corrupt(name, f"{part} is missing") from exc


def _require_size(name: str, part: str, size_bytes: int, expected_bytes: int) -> None:
    if size_bytes < expected_bytes:
        raise corrupt(name, f"{part} is cut at offset {size_bytes} of {expected_bytes}")
    if size_bytes > expected_bytes:
        raise corrupt(name, f"{part} goes on after offset {expected_bytes}, to {size_bytes}")


def _load_memory(
    dir_fd: int, manifest: Manifest, copier: Copier, steps: Steps
) -> tuple[int, Reading]:
    name, memory = manifest.name, manifest.memory
    with (
        _part(name, files.MEMORY, dir_fd, memory.size_bytes) as (fd, _size_bytes),
        _owned_memfd(name) as memfd,
    ):
        with read_ahead(fd) as reading:
            _copy(manifest, fd, memfd, copier, steps)
        files.drop_cache(fd)
    return memfd, reading


def _load_state(dir_fd: int, manifest: Manifest) -> int:
    name, state = manifest.name, manifest.device_state
    digest = hashlib.sha256()
    with (
        _part(name, files.DEVICE_STATE, dir_fd, state.size_bytes) as (fd, size_bytes),
        _owned_memfd(f"{name}:state") as memfd,
    ):
        at = 0
        while at < size_bytes and (block := os.pread(fd, min(_BLOCK_BYTES, size_bytes - at), at)):
            digest.update(block)
            at += os.pwrite(memfd, block, at)
        if digest.hexdigest() != state.sha256:
            raise corrupt(name, "device_state does not have the SHA-256 of its manifest")
    return memfd


@contextmanager
def _owned_memfd(name: str) -> Iterator[int]:
    """A memfd to fill: sealed when the block succeeds, closed when it fails."""
    memfd = create_memfd(name)
    try:
        yield memfd
        seal_memfd(memfd)
    except BaseException:
        os.close(memfd)
        raise


def _copy(manifest: Manifest, src_fd: int, dst_fd: int, copier: Copier, steps: Steps) -> None:
    """Copy the memory, or only read it, comparing every chunk with the manifest."""
    size_bytes, chunk_bytes = manifest.memory.size_bytes, manifest.memory.chunk_bytes
    try:
        copied = copier(src_fd, dst_fd, size_bytes, chunk_bytes, cancel_fd=steps.cancel_fd)
    except OSError as exc:
        if exc.errno == errno.ENODATA:
            raise corrupt(manifest.name, "memory cannot be read to its end (ENODATA)") from exc
        raise
    _compare(manifest, copied)
    steps.reached("memory", size_bytes, size_bytes)


def _compare(manifest: Manifest, copied: Copied) -> None:
    memory = manifest.memory
    pairs = zip(copied.chunk_hashes, memory.chunk_hashes, strict=True)
    for index, (actual, expected) in enumerate(pairs):
        if actual != expected:
            start = index * memory.chunk_bytes
            end = min(start + memory.chunk_bytes, memory.size_bytes)
            raise corrupt(manifest.name, f"memory is changed between offsets {start} and {end}")
    if copied.data_bytes != memory.data_bytes:
        raise corrupt(
            manifest.name,
            f"memory holds {copied.data_bytes} bytes of data, not {memory.data_bytes}",
        )
