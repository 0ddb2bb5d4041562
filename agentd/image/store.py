"""Finished images on disk."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Final

import msgspec

from agentd.errors import ErrorCode, PermanentError, SnapStartError
from agentd.image.files import fsync_dir, hash_file, os_errors
from agentd.image.manifest import FORMAT_VERSION, FileRecord, ImageManifest, Versioned
from agentd.image.opening import opened_regular

MANIFEST_NAME: Final = "image.json"
_MANIFEST_BYTES: Final = 1 << 20  # a hundred packages take 30 KiB
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_TAKEN: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})


class Image:
    """A finished image. Its files never change; a rebuild of the same key makes the same bytes."""

    def __init__(self, directory: Path, manifest: ImageManifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self._is_verified = False

    def __repr__(self) -> str:
        return f"<Image key={self.key[:12]} verified={self._is_verified}>"

    @property
    def key(self) -> str:
        """The digest of everything the image was made from."""
        return self.manifest.key

    @property
    def kernel_path(self) -> Path:
        """What QEMU's -kernel takes: an ELF kernel, or a bzImage where it had to stay one."""
        return self.directory / self.manifest.kernel.name

    @property
    def initrd_path(self) -> Path:
        """What QEMU's -initrd takes."""
        return self.directory / self.manifest.initrd.name

    def verify_digests(self) -> None:
        """Read both files and compare their digests; done once per object.

        Raises: PermanentError if a file is not the one that was built.
        """
        if self._is_verified:
            return
        for record in (self.manifest.kernel, self.manifest.initrd):
            path = self.directory / record.name
            with os_errors(f"verifying the guest image {str(self.directory)!r}"):
                found = hash_file(path)
            if found != record.sha256:
                raise _damaged(self.directory, f"{record.name} has SHA256 {found}")
        self._is_verified = True


def load_image(path_or_key: Path | str, cache_dir: Path) -> Image:
    """Open a finished image by key or directory; checks the sizes of its files.

    Raises: PermanentError if it is missing or damaged; ConfigError if it may not be read.
    """
    is_key = isinstance(path_or_key, str) and _KEY.fullmatch(path_or_key)
    named = images_dir(cache_dir) / path_or_key if is_key else Path(path_or_key)
    # What leads to the image is followed once, here; what is in it, or changes later, never.
    directory = Path(os.path.realpath(named))
    with os_errors(f"opening the guest image {str(directory)!r}"):
        try:
            content = _read_manifest(directory)
            found = msgspec.json.decode(content, type=Versioned).format_version
            if found != FORMAT_VERSION:
                raise _damaged(
                    directory, f"format {found}, this program reads format {FORMAT_VERSION}"
                )
            manifest = msgspec.json.decode(content, type=ImageManifest)
        except msgspec.MsgspecError as exc:
            raise _damaged(directory, f"{MANIFEST_NAME}: {exc}") from exc
        for record in (manifest.kernel, manifest.initrd):
            _check_size(directory, record)
    return Image(directory, manifest)


def list_images(cache_dir: Path) -> list[Image]:
    """The usable images of a cache, newest first; damaged ones are passed over.

    Raises: ConfigError if the cache may not be read.
    """
    images = []
    with os_errors(f"listing the guest images in {str(cache_dir)!r}"):
        folder = images_dir(cache_dir)
        keys = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        keys = [key for key in keys if _KEY.fullmatch(key)]
    for key in keys:
        try:
            images.append(load_image(key, cache_dir))
        except SnapStartError:
            continue
    return sorted(images, key=lambda image: (image.manifest.created_at, image.key), reverse=True)


def find_image(key: str, cache_dir: Path) -> Image | None:
    """The image of a key, or None if it is missing or damaged."""
    try:
        return load_image(key, cache_dir)
    except PermanentError:
        return None


def publish(staging: Path, manifest: ImageManifest, cache_dir: Path) -> Image:
    """Give a complete image its final name, at once and durably.

    Of two builders the first wins, since both made the same bytes; a damaged image is replaced.
    Args: staging: holds the files, flushed to disk; on the cache's file system.
    """
    with (staging / MANIFEST_NAME).open("xb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    staging.chmod(0o755)
    fsync_dir(staging)
    final = images_dir(cache_dir) / manifest.key
    final.parent.mkdir(parents=True, exist_ok=True)
    if not _rename(staging, final) and find_image(manifest.key, cache_dir) is None:
        final.rename(staging.with_name(f"{staging.name}-damaged"))
        _rename(staging, final)
    fsync_dir(final.parent)
    return load_image(manifest.key, cache_dir)


def remove_image(image: Image) -> None:
    """Delete an image's files; whoever has them open keeps them. Templates made from it still fork.

    Raises: ConfigError if the cache may not be written.
    """
    with os_errors(f"removing the guest image {str(image.directory)!r}"):
        # Out of sight in one step: nobody finds half an image.
        removed = image.directory.with_name(f".{image.directory.name}.removed-{os.getpid()}")
        image.directory.rename(removed)
        fsync_dir(removed.parent)
        shutil.rmtree(removed)


def images_dir(cache_dir: Path) -> Path:
    """Where finished images are, one directory per key."""
    return cache_dir / "images"


def _rename(source: Path, target: Path) -> bool:
    try:
        source.rename(target)
    except OSError as exc:
        if exc.errno in _TAKEN:
            return False
        raise
    return True


def _read_manifest(directory: Path) -> bytes:
    with opened_regular(directory / MANIFEST_NAME) as fd:
        content = os.pread(fd, _MANIFEST_BYTES + 1, 0)
    if len(content) > _MANIFEST_BYTES:
        raise _damaged(directory, f"{MANIFEST_NAME} is longer than {_MANIFEST_BYTES} bytes")
    return content


def _check_size(directory: Path, record: FileRecord) -> None:
    if record.name in ("", ".", "..") or set(record.name) & {"/", "\0"}:
        raise _damaged(directory, f"{MANIFEST_NAME} names {record.name!r}, no file of the image")
    with opened_regular(directory / record.name) as fd:
        size = os.fstat(fd).st_size
    if size != record.size_bytes:
        raise _damaged(directory, f"{record.name} has {size} bytes, not {record.size_bytes}")


def _damaged(directory: Path, reason: str) -> PermanentError:
    return PermanentError(
        ErrorCode.IMAGE_INVALID,
        f"reading the guest image {str(directory)!r}: {reason}",
        hint="build the image again",
    )
