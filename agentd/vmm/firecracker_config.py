"""Describe machines to Firecracker.

What a machine has to reach it inherits as open descriptors, and names by paths of its own process.
So every machine's description, and every snapshot, names the same paths, whoever's they are: clones
need no path of their own, in no version, and nothing that the machine's user could not reach.
"""

from __future__ import annotations

from typing import Any, Final

from agentd.vmm.qemu_argv import marker
from agentd.wire.manifest import Machine

# The numbers under which a machine finds what it inherits.
DIRECTORY_FD: Final = 3
LOG_FD: Final = 4
KERNEL_FD: Final = 5
INITRD_FD: Final = 6
MEMORY_FD: Final = 7
STATE_FD: Final = 8

# In the machine's directory. Short, because a socket's address is.
API_NAME: Final = "api"
CHANNEL_NAME: Final = "channel"
PAGER_NAME: Final = "memory"

MACHINE_TYPE: Final = "microvm"
CPU: Final = "host"  # no CPU template: what the host's KVM gives a guest
GUEST_CID: Final = 3  # each machine is alone behind its socket
# A guest is told that there is no other way to end its machine than a reset.
_END: Final = "reboot=k"


def inherited(fd: int) -> str:
    """How a machine names a file that it inherits."""
    return f"/proc/self/fd/{fd}"


def own_path(name: str) -> str:
    """How a machine names something in its directory."""
    return f"{inherited(DIRECTORY_FD)}/{name}"


def command_line(installation: str, vm_id: str) -> tuple[str, ...]:
    """The arguments of a monitor, with the name by which a successor finds it in the first place.

    The log is named here, because no snapshot keeps it; and it begins before the interface does.
    """
    return (
        marker(installation, vm_id),
        *("--id", vm_id.replace("_", "-")),
        *("--api-sock", own_path(API_NAME)),
        *("--log-path", inherited(LOG_FD), "--level", "Warning", "--show-level"),
    )


def machine_config(machine: Machine) -> dict[str, Any]:
    """PUT /machine-config."""
    return {"vcpu_count": machine.vcpus, "mem_size_mib": machine.memory_mib, "smt": False}


def boot_source(cmdline: str) -> dict[str, Any]:
    """PUT /boot-source."""
    return {
        "kernel_image_path": inherited(KERNEL_FD),
        "initrd_path": inherited(INITRD_FD),
        "boot_args": f"{cmdline} {_END}",
    }


def vsock() -> dict[str, Any]:
    """PUT /vsock."""
    return {"guest_cid": GUEST_CID, "uds_path": own_path(CHANNEL_NAME)}


def device_argv(machine: Machine) -> tuple[str, ...]:
    """What shapes the guest-visible machine, for `VmmFacts`."""
    parts = {**machine_config(machine), **vsock()}
    return tuple(f"{name}={value}" for name, value in parts.items())
