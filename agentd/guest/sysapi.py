"""Call the system calls that Python has no function for."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct

PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND = 2, 4, 8, 4096
REBOOT_POWER_OFF = 0x4321FEDC
REBOOT_RESTART = 0x01234567

# include/uapi/linux/sockios.h, if.h
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument. Raises OSError."""
    _check(_libc.prctl(option, value, 0, 0, 0), f"prctl({option}, {value})")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _check(result, f"mount {kind or source} on {target}")


def load_module(path: str) -> None:
    """finit_module(2) of an uncompressed module; one that is loaded already is fine."""
    number = _FINIT_MODULE[platform.machine()]
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syscall(number, fd, b"", 0), f"load {path}")
    except FileExistsError:
        return
    finally:
        os.close(fd)


def set_fs_ids(uid: int, gid: int) -> None:
    """setfsgid(2), setfsuid(2): check file access as another user; these calls cannot fail."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)


def bring_up_loopback() -> None:
    """netdevice(7): set IFF_UP of `lo`. Raises OSError, also where the kernel has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sH14x", b"lo", _IFF_UP)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, request)


def power_off() -> None:
    """reboot(2): end the VM. Raises OSError when not permitted."""
    os.sync()
    _check(_libc.reboot(ctypes.c_int(REBOOT_POWER_OFF)), "power off")


def restart() -> None:
    """reboot(2): reset the machine. Raises OSError when not permitted."""
    os.sync()
    _check(_libc.reboot(ctypes.c_int(REBOOT_RESTART)), "restart")
