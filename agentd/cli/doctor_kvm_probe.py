"""Run one instruction in a virtual machine of KVM, as a program of its own.

A para-virtual /dev/kvm opens and makes machines, in which guests then hang; whoever runs this gives
it little time. Prints nothing and exits with 0 if the machine ran, else prints what failed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
from collections.abc import Callable
from typing import Final

# linux/kvm.h
_CREATE_VM: Final = 0xAE01
_GET_VCPU_MMAP_SIZE: Final = 0xAE04
_CREATE_VCPU: Final = 0xAE41
_RUN: Final = 0xAE80
_SET_MEMORY: Final = 0x4020AE46
_SET_REGS: Final = 0x4090AE82
_GET_SREGS: Final = 0x8138AE83
_SET_SREGS: Final = 0x4138AE84
_SREGS_BYTES: Final = 0x138
_EXIT_REASON_AT: Final = 8  # in struct kvm_run
_EXIT_HLT: Final = 5

_CODE_AT: Final = 0x1000
_HLT: Final = b"\xf4"
_RFLAGS: Final = 0x2  # the bit that is always set


def run_one_instruction(device: str) -> str:
    """Halt in real mode. Returns: nothing, or what else happened. Raises: OSError."""
    kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    machine = fcntl.ioctl(kvm, _CREATE_VM, 0)
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    memory[: len(_HLT)] = _HLT
    region = struct.pack("=IIQQQ", 0, 0, _CODE_AT, mmap.PAGESIZE, _address_of(memory))
    fcntl.ioctl(machine, _SET_MEMORY, region)
    cpu = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    shared = mmap.mmap(cpu, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE, 0))
    _point_at_code(cpu)
    fcntl.ioctl(cpu, _RUN, 0)
    (reason,) = struct.unpack_from("=I", shared, _EXIT_REASON_AT)
    return "" if reason == _EXIT_HLT else f"the guest left with reason {reason}, not by HLT"


def _point_at_code(cpu: int) -> None:
    sregs = bytearray(fcntl.ioctl(cpu, _GET_SREGS, bytes(_SREGS_BYTES)))
    struct.pack_into("=QIH", sregs, 0, 0, 0xFFFF, 0)  # cs: base, limit, selector
    fcntl.ioctl(cpu, _SET_SREGS, bytes(sregs))
    fcntl.ioctl(cpu, _SET_REGS, struct.pack("=16QQQ", *(0,) * 16, _CODE_AT, _RFLAGS))


def _address_of(memory: mmap.mmap) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def main(device: str, probe: Callable[[str], str] = run_one_instruction) -> int:
    """Exit status: 0 if it ran."""
    try:
        said = probe(device)
    except OSError as exc:
        said = f"{exc.strerror}"
    if said:
        print(said)
    return 1 if said else 0


if __name__ == "__main__":
    # The process ends with it: a machine half made is the kernel's to take apart.
    os._exit(main(sys.argv[1]))
