"""Run a program whose system call filter refuses mincore(2), as systemd's @system-service does.

Run as `python without_mincore.py PROGRAM ARGUMENT...`.
"""

import ctypes
import os
import platform
import struct
import sys

_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_NUMBER = {"x86_64": 27, "aarch64": 232}[platform.machine()]
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001
_RULES = ((_LOAD, 0, 0, 0), (_EQUALS, 0, 1, _NUMBER), (_RETURN, 0, 0, _EPERM))


def main() -> None:
    """Args: of the command line."""
    rules = b"".join(struct.pack("HBBI", *rule) for rule in (*_RULES, (_RETURN, 0, 0, _ALLOW)))
    code = ctypes.create_string_buffer(rules)
    program = struct.pack("HxxxxxxP", len(rules) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execv(sys.argv[1], sys.argv[1:])


main()
