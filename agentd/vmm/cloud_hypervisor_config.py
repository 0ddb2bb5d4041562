"""Describe a machine to Cloud Hypervisor: one that boots, or a clone of one that was saved.

The configuration in a snapshot is the only place where a clone can be told its own sockets, files,
interfaces. What is not known here of it stays as it is, whatever version wrote it. Every path in it
is one of the process itself (/proc/self/fd): it needs no directory that its user could reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from agentd.errors import ErrorCode, PermanentError
from agentd.units import MIB
from agentd.vmm.qemu_argv import marker
from agentd.wire.manifest import Machine

# Numbers under which a machine inherits what its owner opened for it.
API_FD: Final = 10
MEMORY_FD: Final = 12
KERNEL_FD: Final = 14
INITRD_FD: Final = 15
CONSOLE_FD: Final = 16
DIRECTORY_FD: Final = 20

GUEST_CID: Final = 3  # each machine is alone behind its socket
CHANNEL_NAME: Final = "channel.sock"
CONSOLE_NAME: Final = "console.sock"
KERNEL_NAME: Final = "kernel"
SNAPSHOT_NAME: Final = "snapshot"
EVENTS_NAME: Final = "events"
ZONE: Final = "ram"

CPU: Final = "host,nested=off"
MACHINE_TYPE: Final = "pci"
# What more than one clone cannot have at a time, or what is outside of the snapshot.
_UNCLONABLE: Final = (
    *("fs", "pmem", "vdpa", "devices", "user_devices", "generic_vhost_user"),
    *("tpm", "ivshmem"),
)

Config = dict[str, Any]


def inherited(number: int) -> str:
    """The path of what a machine inherited under a number."""
    return f"/proc/self/fd/{number}"


def own_path(name: str) -> str:
    """The path of a name in the machine's own directory."""
    return f"{inherited(DIRECTORY_FD)}/{name}"


def command_line(installation: str, vm_id: str) -> tuple[str, ...]:
    """How a monitor is started, without a machine; its first word says whose machine it will be."""
    return (
        marker(installation, vm_id),
        *("--api-socket", f"fd={API_FD}"),
        *("--event-monitor", f"path={own_path(EVENTS_NAME)}"),
    )


def boot_config(machine: Machine, cmdline: str, *, is_shared: bool) -> Config:
    """A machine that boots a kernel it inherited, which has a name for as long as that takes.

    Its memory is a zone, which a clone's configuration can give a file. is_shared: a page server
    will want to fill the clones' memory. Versions before v50 ignore `nested`, and those before v52
    heed it on Intel's processors alone: their guests can run guests.
    """
    return {
        "cpus": {"boot_vcpus": machine.vcpus, "max_vcpus": machine.vcpus, "nested": False},
        "memory": {
            "size": 0,
            "zones": [{"id": ZONE, "size": machine.memory_mib * MIB, "shared": is_shared}],
        },
        "payload": {
            "kernel": own_path(KERNEL_NAME),
            "initramfs": inherited(INITRD_FD),
            "cmdline": cmdline,
        },
        "rng": {"src": "/dev/urandom"},
        "serial": {"mode": "File", "file": inherited(CONSOLE_FD)},
        "console": {"mode": "Off"},
        "vsock": {"cid": GUEST_CID, "socket": own_path(CHANNEL_NAME)},
    }


def device_argv(machine: Machine) -> tuple[str, ...]:
    """What shapes the guest-visible machine, a word for each section of its configuration."""
    config = boot_config(machine, "", is_shared=False)
    shape = {
        "cpus": config["cpus"],
        "memory": {"zones": [{"id": ZONE, "size": config["memory"]["zones"][0]["size"]}]},
        "rng": config["rng"],
        "serial": {},
        "vsock": {"cid": GUEST_CID},
    }
    encode = msgspec.json.Encoder(order="sorted").encode
    return tuple(f"{section}={encode(value).decode()}" for section, value in shape.items())


@dataclass(frozen=True)
class Clone:
    """What one clone has for itself.

    serial: section of its console. memory_file: that its RAM is a private mapping of; empty for
    memory of its own. is_shared: of its memory. taps, disks: by the device's id.
    """

    serial: Mapping[str, str]
    memory_file: str = ""
    is_shared: bool = False
    taps: Mapping[str, str] = field(default_factory=dict)
    disks: Mapping[str, str] = field(default_factory=dict)


def clone_config(saved: Config, clone: Clone) -> Config:
    """The configuration of a clone. Raises: PermanentError for a machine that cannot have any."""
    if taken := [name for name in _UNCLONABLE if saved.get(name)]:
        raise _unclonable(f"it has {', '.join(taken)}")
    config = {**saved, "serial": dict(clone.serial), "memory": _memory(saved, clone)}
    config["payload"] = _payload(saved)
    for name in ("console", "debug_console"):
        if name in saved:
            config[name] = _muted(saved[name])
    if saved.get("vsock"):
        config["vsock"] = {**saved["vsock"], "socket": own_path(CHANNEL_NAME)}
    if saved.get("net"):
        config["net"] = [_with_tap(net, clone.taps) for net in saved["net"]]
    if saved.get("disks"):
        config["disks"] = [_with_path(disk, clone.disks) for disk in saved["disks"]]
    return config


def console_socket() -> Mapping[str, str]:
    """A console that listens, and keeps its last output until somebody reads it."""
    return {"mode": "Socket", "socket": own_path(CONSOLE_NAME)}


NO_CONSOLE: Final[Mapping[str, str]] = {"mode": "Null"}


def _payload(saved: Config) -> Config:
    """Nothing to boot from: a guest that resets its machine ends it, as it should.

    A snapshot without a kernel is refused, though none is read; an initramfs is opened.
    """
    return {"kernel": own_path(KERNEL_NAME), "cmdline": saved["payload"].get("cmdline")}


def _memory(saved: Config, clone: Clone) -> Config:
    """Zones that are private mappings, or memory of their own."""
    zones = [
        {**_without(zone, "file"), "shared": clone.is_shared, **_file(clone)}
        for zone in saved["memory"]["zones"]
    ]
    # Large pages of a file that is shared would be made anew where the template has none.
    return {**saved["memory"], "shared": False, "thp": not clone.memory_file, "zones": zones}


def _file(clone: Clone) -> Config:
    return {"file": clone.memory_file} if clone.memory_file else {}


def _without(section: Config, name: str) -> Config:
    return {key: value for key, value in section.items() if key != name}


def _muted(section: Config) -> Config:
    """The same device, connected to nothing; one that is off stays off."""
    if section.get("mode") == "Off":
        return section
    return {**_without(_without(section, "file"), "socket"), "mode": "Null"}


def _with_tap(net: Config, taps: Mapping[str, str]) -> Config:
    tap = taps.get(net.get("id") or "")
    if tap is None or net.get("fds") or net.get("vhost_user"):
        raise _unclonable(f"there is no interface for its network device {net.get('id')!r}")
    return {**net, "tap": tap}


def _with_path(disk: Config, disks: Mapping[str, str]) -> Config:
    path = disks.get(disk.get("id") or "")
    if path is None or disk.get("vhost_user"):
        raise _unclonable(f"there is no file for its disk {disk.get('id')!r}")
    return {**disk, "path": path}


def _unclonable(why: str) -> PermanentError:
    return PermanentError(
        ErrorCode.TEMPLATE_INCOMPATIBLE,
        f"describing a clone of a saved machine: {why}",
        hint="build the template again, of a machine without",
    )
