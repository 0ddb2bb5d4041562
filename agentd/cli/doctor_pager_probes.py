"""Try what the page server and its machines' monitors ask of the kernel, in processes of our own.

Each probe returns an empty text if it works, else what the kernel said. Nothing stays behind.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from typing import Final

_SYS_USERFAULTFD: Final = 323  # x86-64, asm/unistd_64.h
_SYS_PIDFD_GETFD: Final = 438
# linux/userfaultfd.h
_IOC_NEW: Final = 0xAA00
_UFFDIO_API: Final = 0xC018AA3F
_UFFDIO_REGISTER: Final = 0xC020AA00
_UFFDIO_CONTINUE: Final = 0xC020AA07
_API: Final = 0xAA
_FEATURE_EVENT_REMOVE: Final = 1 << 3
_FEATURE_MINOR_SHMEM: Final = 1 << 10
_MODE_MINOR: Final = 1 << 2
_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK
_TEXT_BYTES: Final = 256

_libc = ctypes.CDLL(None, use_errno=True)


def try_userfaultfd(uid: int) -> str:
    """Make one that sees the kernel's own faults, KVM's among them, as a user."""
    return in_child(uid, lambda: os.close(_make_userfaultfd(_FEATURE_EVENT_REMOVE)))


def try_minor_faults() -> str:
    """Share a page of a memfd with a private mapping of it, as clones of a template would."""
    return _explained(_share_a_page)


def try_take_over(uid: int) -> str:
    """Take a descriptor out of a process of a user whose parent we are not, as a successor has to
    take machines' userfaultfds.
    """
    held, ending = os.pipe2(os.O_CLOEXEC)
    try:
        pid = _leave_behind(uid, held, ending)
        return _explained(lambda: _take(pid, held)) if pid else "no process of that user could run"
    finally:
        os.close(held)
        os.close(ending)  # what that process waits for


def in_child(uid: int, work: Callable[[], None]) -> str:
    """Do something in a process of a user; root alone can become another."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    with open(ours, "rb") as answer:
        pid = os.fork()
        if pid == 0:
            _tell_of(uid, work, theirs)
        os.close(theirs)
        text = answer.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return (
        text if os.waitstatus_to_exitcode(status) == 0 else "the process that tried it was killed"
    )


def _tell_of(uid: int, work: Callable[[], None], tell: int) -> None:
    status = 1
    try:
        said = _explained(lambda: _become(uid)) or _explained(work)
        os.write(tell, said.encode()[:_TEXT_BYTES])
        status = 0
    finally:
        os._exit(status)


def _explained(work: Callable[[], None]) -> str:
    try:
        work()
    except OSError as exc:
        return f"{exc.strerror}"
    return ""


def _become(uid: int) -> None:
    if uid != os.geteuid():
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def _make_userfaultfd(features: int) -> int:
    fd = _new_userfaultfd()
    try:
        fcntl.ioctl(fd, _UFFDIO_API, struct.pack("=QQQ", _API, features, 0))
    except OSError:
        os.close(fd)
        raise
    return fd


def _new_userfaultfd() -> int:
    """By the device, whose mode decides, else by the call: a sysctl or a capability allows it."""
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return _checked(_libc.syscall(_SYS_USERFAULTFD, _FLAGS))
    try:
        return fcntl.ioctl(device, _IOC_NEW, _FLAGS)
    finally:
        os.close(device)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _share_a_page() -> None:
    """Nothing touches the page afterwards, so no fault is left that nobody would serve."""
    size = mmap.PAGESIZE
    uffd = _make_userfaultfd(_FEATURE_MINOR_SHMEM)
    try:
        memory = os.memfd_create("doctor", os.MFD_CLOEXEC)
        try:
            os.write(memory, b"x" * size)
            with mmap.mmap(memory, size, mmap.MAP_PRIVATE) as mapped:
                _continue_at(uffd, _address_of(mapped), size)
        finally:
            os.close(memory)
    finally:
        os.close(uffd)


def _address_of(mapped: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))


def _continue_at(uffd: int, address: int, size: int) -> None:
    fcntl.ioctl(uffd, _UFFDIO_REGISTER, struct.pack("=QQQQ", address, size, _MODE_MINOR, 0))
    done = fcntl.ioctl(uffd, _UFFDIO_CONTINUE, struct.pack("=QQQq", address, size, 0, 0))
    if struct.unpack("=QQQq", done)[3] != size:
        raise OSError(errno.EIO, "the page was not mapped")


def _leave_behind(uid: int, held: int, ending: int) -> int:
    """A process whose parent has ended, and which ends when nobody holds the end of the pipe any
    more. Returns: its number, 0 if there is none.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    with open(told, "rb") as numbers:
        child = os.fork()
        if child == 0:
            _fork_and_leave(uid, held, ending, tell)
        os.close(tell)
        number = numbers.readline()
    os.waitpid(child, 0)
    return int(number or b"0")


def _fork_and_leave(uid: int, held: int, ending: int, tell: int) -> None:
    try:
        if os.fork() == 0:
            os.close(ending)
            _become(uid)
            os.write(tell, f"{os.getpid()}\n".encode())
            os.close(tell)
            os.read(held, 1)
    finally:
        os._exit(0)


def _take(pid: int, held: int) -> None:
    """Under the same number it has the same descriptor as we: it was inherited."""
    pidfd = os.pidfd_open(pid)
    try:
        taken = _checked(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, held, 0))
    finally:
        os.close(pidfd)
    is_same = os.path.sameopenfile(taken, held)
    os.close(taken)
    if not is_same:
        raise OSError(errno.ESTALE, "another descriptor came than was asked for")
