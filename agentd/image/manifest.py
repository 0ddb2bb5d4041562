"""The wire form of image.json, which describes one finished image."""

from __future__ import annotations

from typing import Final

import msgspec

# Of image.json; a reader refuses any other.
FORMAT_VERSION: Final = 1


class Versioned(msgspec.Struct, frozen=True):
    """What every format of image.json has in common."""

    format_version: int


class PackageRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One Debian package, pinned by content."""

    name: str
    version: str
    architecture: str
    sha256: str
    size_bytes: int


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the image, by content; `name` is relative to the image's directory."""

    name: str
    sha256: str
    size_bytes: int


class ImageManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a VMM driver has to know to boot the image, and where it came from.

    `python` is the guest's interpreter, `modules` the kernel modules in load order, `cmdline` the
    kernel arguments the image expects, `notes` what the builder did otherwise than wished.
    """

    format_version: int
    key: str
    created_at: str
    kernel: FileRecord
    initrd: FileRecord
    kernel_release: str
    modules: tuple[str, ...]
    preload: tuple[str, ...]
    python: str
    cmdline: tuple[str, ...]
    packages: tuple[PackageRecord, ...]
    notes: tuple[str, ...]
