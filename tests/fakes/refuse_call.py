"""Run a program under a system call filter, as systemd's units have one.

Run as `python refuse_call.py CALL PROGRAM ARGUMENT...`; CALL: `mincore` (as SystemCallFilter=), or
`inet`, which refuses sockets of AF_INET and AF_INET6 (as RestrictAddressFamilies=).
"""

import ctypes
import errno
import os
import struct
import sys

_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_NUMBER, _FIRST_ARGUMENT = 0, 16  # of struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_MINCORE, _SOCKET = 27, 41  # asm/unistd_64.h
_AF_INET, _AF_INET6 = 2, 10
_ALLOWED = (_RETURN, 0, 0, _ALLOW)
# Code, how many to skip if equal, if not, operand.
_RULES = {
    "mincore": (
        (_LOAD, 0, 0, _NUMBER),
        (_EQUALS, 0, 1, _MINCORE),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        _ALLOWED,
    ),
    "inet": (
        (_LOAD, 0, 0, _NUMBER),
        (_EQUALS, 0, 4, _SOCKET),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUALS, 1, 0, _AF_INET),
        (_EQUALS, 0, 1, _AF_INET6),
        (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
        _ALLOWED,
    ),
}


def main() -> None:
    """Become the program. Raises: OSError."""
    rules = _RULES[sys.argv[1]]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
