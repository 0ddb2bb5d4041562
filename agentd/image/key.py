"""The name of an image: one digest over everything its bytes depend on."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from agentd import RELEASE
from agentd.image.manifest import FORMAT_VERSION, PackageRecord
from agentd.image.spec import ImageSpec
from agentd.image.tree import Tree


def compute_key(
    spec: ImageSpec,
    packages: Sequence[PackageRecord],
    runtime: Mapping[str, bytes],
    rootfs: Tree | None,
) -> str:
    """The digest of an image's inputs, in hexadecimal.

    Args: packages: as resolved. runtime: the guest runtime's sources by path. rootfs: the user's
        own tree, None for Debian packages.
    """
    inputs = {
        "format_version": FORMAT_VERSION,
        "builder": _builder_digest(),
        "packages": [(item.name, item.version, item.sha256) for item in packages],
        "runtime": [(path, _digest(content)) for path, content in sorted(runtime.items())],
        "rootfs": None if rootfs is None else _tree_digest(rootfs),
        "version": RELEASE,
        "preload": spec.preload,
        "kernel_modules": spec.kernel_modules,
        # Another compiler may emit other byte code for the same sources.
        "builder_python": sys.version_info[:3],
        # Without the tool the kernel stays a bzImage; installing it has to be worth a build.
        "has_lz4": shutil.which("lz4") is not None,
    }
    return _digest(msgspec.json.encode(inputs, order="deterministic"))


def _builder_digest() -> str:
    """Of this package's own sources: a changed builder never answers with an old image."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return _digest(b"".join(path.read_bytes() for path in sources))


def _tree_digest(tree: Tree) -> str:
    digest = hashlib.sha256()
    for path, entry in tree:
        fields = (path, entry.mode, entry.uid, entry.gid, _digest(entry.data))
        digest.update(repr(fields).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
