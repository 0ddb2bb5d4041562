"""Write the files of a workload: images, traces, working sets."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.pager.workload import PAGE_BYTES, Touch, Workload, format_trace, runs_of

_CHUNK_BYTES: Final = 1 << 22


@dataclass(frozen=True)
class Image:
    """A file, and a sealed memfd with the same content and the same holes."""

    path: Path
    digest: str
    memfd: int


def write_image(path: Path, workload: Workload, *, is_sparse: bool) -> Image:
    """Pages of noise and pages of zeros; is_sparse: the zeros are holes.

    Returns: the image; the caller closes its memfd.
    """
    noise = random.Random(0)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        if is_sparse:
            file.truncate(len(workload.is_zero) * PAGE_BYTES)
        at = 0
        for page, count in [*runs_of(workload.is_zero), (len(workload.is_zero), 0)]:
            zeros, content = bytes((page - at) * PAGE_BYTES), noise.randbytes(count * PAGE_BYTES)
            for part in (zeros, content):
                digest.update(part)
            if not is_sparse:
                file.write(zeros)
            file.seek(page * PAGE_BYTES)
            file.write(content)
            at = page + count
        file.flush()
        os.fsync(file.fileno())
    return Image(path, digest.hexdigest(), make_memfd(path))


def write_trace(path: Path, touches: Sequence[Touch], workload: Workload) -> Path:
    """A trace for the programs in C."""
    path.write_text(format_trace(touches, workload.is_zero))
    return path


def write_data(path: Path, image: Path, workload: Workload) -> Path:
    """The content of what is touched and not zeros, in order: what a smallest server reads cold."""
    with image.open("rb") as source, path.open("wb") as file:
        for touch in workload.touches:
            if not workload.is_zero[touch.page]:
                file.write(os.pread(source.fileno(), PAGE_BYTES, touch.page * PAGE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return path


def make_memfd(image: Path) -> int:
    """A memfd that nobody can change any more. Returns: its descriptor."""
    fd = os.memfd_create("template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with image.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            os.ftruncate(fd, size)
            _copy_content(file.fileno(), fd, size)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _copy_content(source: int, target: int, size: int) -> None:
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            part = os.pread(source, min(end - at, _CHUNK_BYTES), at)
            at += os.pwrite(target, part, at)
