"""From an ImageSpec to a finished image.

The key is the digest of everything that decides the bytes; finding it needs APT's answer but no
package. Only when no image has that key are packages fetched, merged in memory and written out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode
from agentd.image import cpio, overlay
from agentd.image.bytecode import add_bytecode
from agentd.image.deb import unpack_deb
from agentd.image.files import HashingFile, os_errors, staging_dir
from agentd.image.kernel import PayloadUnreadableError, extract_vmlinux
from agentd.image.key import compute_key
from agentd.image.manifest import FORMAT_VERSION, FileRecord, ImageManifest, PackageRecord
from agentd.image.modules import module_name, plain_module, plan_module_order, read_depends
from agentd.image.packages import PackageCache, resolve_packages
from agentd.image.rootfs import read_rootfs
from agentd.image.spec import (
    DEFAULT_CMDLINE,
    VSOCK_MODULES,
    ImageSpec,
    Progress,
    ProgressEvent,
    ignore_progress,
)
from agentd.image.store import Image, find_image, publish
from agentd.image.tree import Tree
from agentd.image.trim import is_trimmed

_KERNEL_PACKAGE: Final = re.compile(r"linux-image-\d.*")
_VMLINUZ: Final = "boot/vmlinuz-"


@dataclass(frozen=True)
class _Inputs:
    """Everything the bytes of an image depend on."""

    spec: ImageSpec
    packages: tuple[PackageRecord, ...]
    runtime: Mapping[str, bytes]
    rootfs: Tree | None


@dataclass(frozen=True)
class _Kernel:
    release: str
    file_name: str
    content: bytes
    modules: Mapping[str, bytes]
    vsock_modules: Mapping[str, bytes]
    note: str


@dataclass(frozen=True)
class _Parts:
    inputs: _Inputs
    key: str
    tree: Tree
    python: str
    kernel: _Kernel
    bytecode_note: str


def build_image(
    spec: ImageSpec,
    *,
    cache_dir: Path,
    progress: Progress = ignore_progress,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Image:
    """Build the image of a spec, or find it in the cache.

    Args: cache_dir: made if missing; shared safely by any number of builders. progress: called in
        this thread; an exception it raises ends the build.
    Returns: the image, complete and durable on disk.
    Raises: ConfigError, UsageError, TransientError or PermanentError; nothing is left behind.
    """
    with os_errors(f"building a guest image in {str(cache_dir)!r}"):
        progress(ProgressEvent("resolve", 0, 1))
        inputs = _read_inputs(spec, cache_dir)
        key = compute_key(inputs.spec, inputs.packages, inputs.runtime, inputs.rootfs)
        progress(ProgressEvent("resolve", 1, 1))
        found = find_image(key, cache_dir)
        if found is not None:
            return found
        return _build(inputs, key, cache_dir, progress, clock)


def _read_inputs(spec: ImageSpec, cache_dir: Path) -> _Inputs:
    runtime = overlay.read_runtime(spec.runtime_dir or overlay.default_runtime_dir())
    rootfs = None if spec.rootfs is None else read_rootfs(spec.rootfs)
    return _Inputs(spec, resolve_packages(spec.wanted_packages, cache_dir), runtime, rootfs)


def _build(
    inputs: _Inputs,
    key: str,
    cache_dir: Path,
    progress: Progress,
    clock: Callable[[], datetime],
) -> Image:
    debs = PackageCache(cache_dir)
    debs.ensure(inputs.packages, progress)
    with ThreadPoolExecutor(1, "image-kernel") as pool:
        # Most of it is xz decompression, outside the GIL: a second core takes it off the build.
        kernel_read = pool.submit(_read_kernel, inputs, debs)
        tree = inputs.rootfs
        if tree is None:
            tree = _merge_packages(inputs.packages, debs, progress)
        python, version = overlay.find_python(tree)
        overlay.add_runtime(tree, inputs.runtime, python, inputs.spec.preload)
        note = add_bytecode(tree, version, progress)
        progress(ProgressEvent("kernel", 0, 1))
        kernel = kernel_read.result()
        progress(ProgressEvent("kernel", 1, 1))
    overlay.add_modules(tree, kernel.modules)
    overlay.add_vsock_modules(tree, kernel.vsock_modules)
    return _write_image(_Parts(inputs, key, tree, python, kernel, note), cache_dir, progress, clock)


def _write_image(
    parts: _Parts, cache_dir: Path, progress: Progress, clock: Callable[[], datetime]
) -> Image:
    kernel = parts.kernel
    with staging_dir(cache_dir) as scratch:
        folder = scratch / "image"
        folder.mkdir()
        progress(ProgressEvent("write", 0, 2))
        kernel_file = _write(folder / kernel.file_name, lambda out: out.write(kernel.content))
        progress(ProgressEvent("write", 1, 2))
        initrd_file = _write(
            folder / "initrd.cpio", lambda out: cpio.write_archive(parts.tree, out)
        )
        manifest = _manifest(parts, kernel_file, initrd_file, clock())
        image = publish(folder, manifest, cache_dir)
    for text in manifest.notes:
        progress(ProgressEvent("write", 2, 2, text))
    progress(ProgressEvent("write", 2, 2))
    return image


def _manifest(
    parts: _Parts, kernel_file: FileRecord, initrd_file: FileRecord, now: datetime
) -> ImageManifest:
    return ImageManifest(
        format_version=FORMAT_VERSION,
        key=parts.key,
        created_at=now.isoformat(timespec="seconds"),
        kernel=kernel_file,
        initrd=initrd_file,
        kernel_release=parts.kernel.release,
        modules=tuple(str(module_name(path)) for path in parts.kernel.modules),
        preload=parts.inputs.spec.preload,
        python=f"/{parts.python}",
        cmdline=DEFAULT_CMDLINE,
        packages=parts.inputs.packages,
        notes=tuple(note for note in (parts.kernel.note, parts.bytecode_note) if note),
    )


def _merge_packages(
    packages: Sequence[PackageRecord], debs: PackageCache, progress: Progress
) -> Tree:
    tree = overlay.new_debian_tree()
    wanted = [item for item in packages if not _KERNEL_PACKAGE.fullmatch(item.name)]
    for done, package in enumerate(wanted):
        progress(ProgressEvent("unpack", done, len(wanted), package.name))
        unpack_deb(debs.read(package), package.name, tree)
    tree.remove_if(is_trimmed)
    overlay.finish_debian_tree(tree)
    progress(ProgressEvent("unpack", len(wanted), len(wanted)))
    return tree


def _read_kernel(inputs: _Inputs, debs: PackageCache) -> _Kernel:
    tree = Tree()
    for package in inputs.packages:
        if _KERNEL_PACKAGE.fullmatch(package.name):
            unpack_deb(debs.read(package), package.name, tree)
    path, vmlinuz = _find_vmlinuz(tree, inputs.spec.kernel_package)
    found = _find_modules(tree, path.removeprefix(_VMLINUZ))
    modules = found.choose(inputs.spec.kernel_modules)
    vsock_modules = found.choose([name for name in VSOCK_MODULES if name in found.depends])
    for name in modules:
        vsock_modules.pop(name, None)
    try:
        name, content, note = "vmlinux", extract_vmlinux(vmlinuz), ""
    except PayloadUnreadableError as exc:
        name, content = "bzImage", vmlinuz
        note = f"the kernel stays a bzImage, which boots slower: {exc}"
    release = path.removeprefix(_VMLINUZ)
    return _Kernel(release, name, content, modules, vsock_modules, note)


def _find_vmlinuz(tree: Tree, package: str) -> tuple[str, bytes]:
    found = [(path, item.data) for path, item in tree if path.startswith(_VMLINUZ)]
    if len(found) != 1:
        raise ConfigError(
            ErrorCode.IMAGE_INVALID,
            f"looking for the kernel in {package!r}: found {[path for path, _ in found]!r}",
            hint="choose a kernel package that brings exactly one linux-image",
        )
    return found[0]


@dataclass(frozen=True)
class _Modules:
    """What a kernel package brings. plain: path and content without compression, by name."""

    plain: Mapping[str, tuple[str, bytes]]
    depends: Mapping[str, Sequence[str]]
    builtin: Collection[str]

    def choose(self, wanted: Sequence[str]) -> dict[str, bytes]:
        """Content by path, in load order."""
        order = plan_module_order(wanted, self.depends, self.builtin)
        return dict(self.plain[name] for name in order)


def _find_modules(tree: Tree, release: str) -> _Modules:
    files = {name: (path, item.data) for path, item in tree if (name := module_name(path))}
    plain = {name: plain_module(*where) for name, where in files.items()}
    depends = {name: read_depends(content) for name, (_, content) in plain.items()}
    listing = tree.get(f"lib/modules/{release}/modules.builtin")
    lines = listing.data.decode().split() if listing else []
    builtin = {name for line in lines if (name := module_name(line))}
    return _Modules(plain, depends, builtin)


def _write(path: Path, fill: Callable[[HashingFile], object]) -> FileRecord:
    with HashingFile(path) as out:
        fill(out)
    return FileRecord(name=path.name, sha256=out.sha256, size_bytes=out.size_bytes)
