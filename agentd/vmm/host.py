"""Read the facts of this host that a template depends on."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentd import native

_KVM_GET_API_VERSION = 0xAE00  # linux/kvm.h
_KVM_API_VERSION = 12  # stable since Linux 2.6.22, Documentation/virt/kvm/api.rst 4.1


@dataclass(frozen=True)
class HostFacts:
    """What this host is.

    cpu: model name with a digest of its flags. tsc_khz: measured; 0 when it is not constant. kvm:
    the device's mode, group when it answers as KVM does.
    """

    cpu: str
    tsc_khz: int
    has_virtualization: bool
    kvm: DeviceAccess | None

    @property
    def can_use_kvm(self) -> bool:
        """True only with the CPU's own extension.

        A para-virtual /dev/kvm opens too, but guests with a stock kernel hang in it.
        """
        return self.has_virtualization and self.kvm is not None


@dataclass(frozen=True)
class DeviceAccess:
    """Who may open a device."""

    mode: int
    gid: int

    @property
    def is_open_to_all(self) -> bool:
        """Anybody may read, write it."""
        return self.mode & 0o006 == 0o006

    @property
    def is_open_to_group(self) -> bool:
        """Its group may read, write it, and is one that a machine may get: root's is not."""
        return self.mode & 0o060 == 0o060 and self.gid != 0


def parse_cpuinfo(text: str) -> Mapping[str, str]:
    """The first processor's fields of /proc/cpuinfo."""
    first = text.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def describe_cpu(fields: Mapping[str, str]) -> str:
    """Name a CPU so that equal names mean equal features."""
    names = ("vendor_id", "cpu family", "model", "stepping", "flags")
    digest = hashlib.sha256("\n".join(fields.get(name, "") for name in names).encode())
    return f"{fields.get('model name', 'unknown')} {digest.hexdigest()[:16]}"


def read_host_facts(
    proc: Path = Path("/proc"),
    dev: Path = Path("/dev"),
    measure_tsc_khz: Callable[[], int] = native.measure_tsc_khz,
) -> HostFacts:
    """Read what this host is; never fails on a missing /dev/kvm."""
    fields = parse_cpuinfo((proc / "cpuinfo").read_text())
    flags = fields.get("flags", "").split()
    return HostFacts(
        cpu=describe_cpu(fields),
        # "cpu MHz" is the momentary clock of one core, which frequency scaling changes.
        tsc_khz=measure_tsc_khz() if "constant_tsc" in flags else 0,
        has_virtualization="svm" in flags or "vmx" in flags,
        kvm=_probe_kvm(dev / "kvm"),
    )


def _probe_kvm(path: Path) -> DeviceAccess | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if fcntl.ioctl(fd, _KVM_GET_API_VERSION) != _KVM_API_VERSION:
            return None
        stat = os.fstat(fd)
        return DeviceAccess(stat.st_mode & 0o777, stat.st_gid)
    except OSError:
        return None
    finally:
        os.close(fd)
