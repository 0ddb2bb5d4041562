"""Write QEMU's command line.

A template and its forks must agree on everything the guest can see: machine type, CPU, memory
size, devices, their order. `device_argv` is that part, kept in the manifest; the rest names what
is private to one machine: sockets, memory, kernel, marker.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from agentd.wire.manifest import Machine

# Numbers under which a machine inherits what its owner opened for it.
QMP_FD: Final = 10
CHANNEL_FD: Final = 11
MEMORY_FD: Final = 12
STATE_FD: Final = 13
KERNEL_FD: Final = 14
INITRD_FD: Final = 15
CONSOLE_FD: Final = 16

MACHINE_TYPE: Final = "pc-i440fx-7.2"
CHANNEL_NAME: Final = "org.snapstart.channel.0"
MARKER_PREFIX: Final = "snapstart"
_CONSOLE: Final = "ringbuf,id=console,size=65536"
# Where the guest's console is kept beside its ring buffer, which ends with the machine.
_CONSOLE_LOG: Final = f"logfile=/proc/self/fd/{CONSOLE_FD},logappend=on"
_NETWORK_OPTIONS: Final = frozenset({"-net", "-netdev", "-nic"})
# Becomes the name of a directory that is removed: never a path.
_VM_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Accelerator:
    """How the guest's instructions run."""

    name: str
    cpu: str
    option: str


TCG: Final = Accelerator("tcg", "qemu64,+rdrand", "tcg,thread=multi")
# The guest must not run guests of its own: less to attack, no nested state in the stream.
KVM: Final = Accelerator("kvm", "host,-svm,-vmx", "kvm")


def marker(installation: str, vm_id: str) -> str:
    """The name by which a successor finds a machine of this installation among processes."""
    return f"{MARKER_PREFIX}/{installation}/{vm_id}"


def parse_marker(argument: str, installation: str) -> str | None:
    """The machine's id if this `-name` argument is a marker of the installation."""
    head, _, vm_id = argument.removeprefix("guest=").rpartition("/")
    is_ours = head == f"{MARKER_PREFIX}/{installation}" and _VM_ID.fullmatch(vm_id)
    return vm_id if is_ours else None


def device_argv(machine: Machine, accelerator: Accelerator) -> tuple[str, ...]:
    """The arguments that shape the guest-visible machine."""
    return _devices(machine, accelerator, _CONSOLE)


def has_network_device(argv: Sequence[str]) -> bool:
    """True when a command line gives its machine a network device.

    Without -nodefaults QEMU adds one by itself (qemu(1), "-nic").
    """
    models = [value for option, value in pairwise(argv) if option == "-device"]
    return (
        "-nodefaults" not in argv
        or not _NETWORK_OPTIONS.isdisjoint(argv)
        or any("net" in model.partition(",")[0] or ",netdev=" in model for model in models)
    )


def _devices(machine: Machine, accelerator: Accelerator, console: str) -> tuple[str, ...]:
    return (
        *("-cpu", accelerator.cpu),
        *("-m", str(machine.memory_mib)),
        *("-smp", str(machine.vcpus)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
        *("-chardev", console, "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci"),
        *("-device", f"virtserialport,chardev=channel,name={CHANNEL_NAME}"),
    )


def _private_argv(
    machine: Machine, accelerator: Accelerator, name: str, *, share: bool
) -> tuple[str, ...]:
    memory = f"memory-backend-file,id=mem,size={machine.memory_mib}M"
    mapping = "on" if share else "off"
    return (
        *("-name", f"guest={name}"),
        # Guest memory is left out of a dump of QEMU, whoever makes one.
        *("-M", f"{MACHINE_TYPE},memory-backend=mem,dump-guest-core=off"),
        *("-accel", accelerator.option),
        *("-object", f"{memory},mem-path=/proc/self/fd/{MEMORY_FD},share={mapping}"),
        *("-chardev", f"socket,id=qmp,fd={QMP_FD},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=channel,fd={CHANNEL_FD},server=on,wait=off"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        "-no-reboot",
    )


def boot_argv(
    machine: Machine, accelerator: Accelerator, name: str, cmdline: str
) -> tuple[str, ...]:
    """Boot a guest image; `checkpoint` can keep its memory.

    store-global-state=off: the stream must not say that the source was paused, else every fork
    stays paused until it is told to go on. The console's log is no part of what the guest sees.
    """
    return (
        *_private_argv(machine, accelerator, name, share=True),
        *_devices(machine, accelerator, f"{_CONSOLE},{_CONSOLE_LOG}"),
        *("-kernel", f"/proc/self/fd/{KERNEL_FD}", "-initrd", f"/proc/self/fd/{INITRD_FD}"),
        *("-append", cmdline),
        *("-global", "migration.store-global-state=off"),
    )


def fork_argv(machine: Machine, accelerator: Accelerator, name: str) -> tuple[str, ...]:
    """Start from a template's memory, mapped privately."""
    return (
        *_private_argv(machine, accelerator, name, share=False),
        *device_argv(machine, accelerator),
        *("-incoming", "defer"),
    )


def fork_qmp_script() -> bytes:
    """The commands of a fork, written before the machine exists; three replies."""
    return (
        b'{"execute":"qmp_capabilities","id":1}\n'
        b'{"execute":"migrate-set-capabilities","id":2,"arguments":{"capabilities":['
        b'{"capability":"events","state":true},{"capability":"x-ignore-shared","state":true}]}}\n'
        b'{"execute":"migrate-incoming","id":3,"arguments":{"uri":"fd:%d"}}\n' % STATE_FD
    )
