"""Describe the cffi module of the cold calls."""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent.parent

CDEF = """
struct limits { int64_t deadline_ns; int cancel_fd; };
struct seal_result { uint64_t data_bytes; };
uint64_t seal_chunks(uint64_t size_bytes, uint64_t chunk_bytes);
int seal_copy(int src_fd, int dst_fd, uint64_t size_bytes, uint64_t chunk_bytes,
              const struct limits *lim, uint64_t *hashes, struct seal_result *ret_result);
int spawn_kill(int pidfd, int *ret_status);
int tsc_measure(int64_t window_ns, uint64_t *ret_khz);
"""

SOURCES = ["deadline.c", "seal.c", "spawn.c", "tsc.c"]


def build(compile_args: list[str], link_args: list[str]) -> FFI:
    """Return the builder of agentd._cold.

    Args: compile_args, link_args: flags for the C compiler, as for every other module.
    """
    ffi = FFI()
    ffi.cdef(CDEF)
    ffi.set_source(
        "agentd._cold",
        '#include "seal.h"\n#include "spawn.h"\n#include "tsc.h"\n',
        sources=[os.path.relpath(NATIVE / "core" / name, NATIVE.parent) for name in SOURCES],
        include_dirs=[str(NATIVE / "core")],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    return ffi
