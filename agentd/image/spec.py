"""What the caller wants in a guest image."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import ErrorCode, UsageError

# What the HTTP interface checks bearer tokens with.
TOKEN_PACKAGES: Final = ("python3-cryptography", "python3-jwt")

# What every image of ours carries; APT adds the dependencies. dash gives os.system() its /bin/sh.
BASE_PACKAGES: Final = (
    "base-files",
    "dash",
    "libpython3.11-stdlib",
    "python3-minimal",
    "python3-numpy",
    "python3.11-minimal",
    *TOKEN_PACKAGES,
)

# The transport of the guest channel, on PCI as well as on MMIO, both eras of the device.
DEFAULT_MODULES: Final = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_console",
)

# The same on monitors that have no virtio-serial; loaded where there is such a device, and left out
# of images whose kernel has none of it.
VSOCK_MODULES: Final = ("vmw_vsock_virtio_transport",)

# mitigations=off and the rest: one tenant per VM, and a TCG guest pays for each of them at boot.
DEFAULT_CMDLINE: Final = (
    "console=ttyS0",
    "quiet",
    # A kernel panic, and nothing else, is worth a line on the console.
    "loglevel=1",
    "panic=-1",
    "rdinit=/init",
    "mitigations=off",
    "tsc=reliable",
    "no_timer_check",
    "audit=0",
    "apparmor=0",
    "cryptomgr.notests",
    "random.trust_cpu=on",
)

# Debian Policy 5.6.1; it also keeps options and versions out of apt's argument list.
_PACKAGE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_PYTHON_MODULE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_KERNEL_MODULE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class ProgressEvent:
    """One step of a build: `done` of `total` units (bytes, packages or files) of `stage`.

    `note` is empty, or one sentence for the person who waits.
    """

    stage: str
    done: int
    total: int
    note: str = ""


Progress = Callable[[ProgressEvent], None]


def ignore_progress(_event: ProgressEvent) -> None:
    """The progress callback of a caller who does not want any."""


@dataclass(frozen=True)
class ImageSpec:
    """The wish for one image; equal wishes over equal package lists give equal bytes.

    Args:
        packages: Debian packages to add, with their dependencies; none with `rootfs`.
        preload: Python modules the guest imports before its checkpoint, in order.
        kernel_package: a package, or meta package, that brings a `linux-image-<release>`.
        kernel_modules: loaded by PID 1 in this order, each after what it depends on.
        rootfs: a directory to use instead of Debian packages; it must hold a Python 3 and its
            content has to fit into the guest's memory.
        runtime_dir: the guest runtime's sources; None means the ones of this installation.
    Raises: UsageError if a name is not one or the combination makes no sense.
    """

    packages: tuple[str, ...] = ()
    preload: tuple[str, ...] = ("numpy",)
    kernel_package: str = "linux-image-cloud-amd64"
    kernel_modules: tuple[str, ...] = DEFAULT_MODULES
    rootfs: Path | None = None
    runtime_dir: Path | None = None

    def __post_init__(self) -> None:
        _check_names("package", (*self.packages, self.kernel_package), _PACKAGE_NAME)
        _check_names("Python module", self.preload, _PYTHON_MODULE)
        _check_names("kernel module", self.kernel_modules, _KERNEL_MODULE)
        if self.rootfs is not None and self.packages:
            raise UsageError(
                ErrorCode.REQUEST_INVALID,
                f"adding packages {list(self.packages)!r} to rootfs {str(self.rootfs)!r}: "
                "packages are not installed into a directory of yours",
                hint="install them in the directory yourself, or leave the rootfs out",
            )

    @property
    def wanted_packages(self) -> tuple[str, ...]:
        """The package names to hand to APT, sorted, without repetition."""
        own = BASE_PACKAGES if self.rootfs is None else ()
        return tuple(sorted({*own, *self.packages, self.kernel_package}))


def _check_names(kind: str, names: tuple[str, ...], pattern: re.Pattern[str]) -> None:
    for name in names:
        if pattern.fullmatch(name) is None:
            raise UsageError(
                ErrorCode.NAME_INVALID,
                f"checking the {kind} name {name!r}: it does not match {pattern.pattern!r}",
                hint=f"give the plain name of the {kind}",
            )
