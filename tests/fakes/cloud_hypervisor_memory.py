"""Guest memory of the Cloud Hypervisor stand-in: mapped, saved, restored as the real one does.

Imports nothing of the product: it runs in a process of its own.
"""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = b"stand-in guest "
STATE_AT = 4096  # of the first region: what the guest is
SCRATCH_AT = 8192  # what it writes when it runs


class ApiError(Exception):
    """What is refused: reasons from the widest to the innermost. kind: of ERRORS."""

    def __init__(self, *chain: str, kind: str = "action") -> None:
        super().__init__(": ".join(chain))
        self.chain = list(chain)
        self.kind = kind


@dataclass
class Region:
    """Some RAM. offset: in the file of its zone. fd: of it, -1 for anonymous memory."""

    gpa: int
    size: int
    zone: str
    offset: int
    shared: bool
    is_named: bool
    memory: mmap.mmap
    fd: int


class Memory:
    """All RAM of one machine."""

    def __init__(self, is_file: bool = False) -> None:
        """is_file: RAM that is nobody else's is a file in memory too, as in v52."""
        self.regions: list[Region] = []
        self._is_file = is_file

    def close(self) -> None:
        for region in self.regions:
            region.memory.close()
            if region.fd >= 0:
                os.close(region.fd)
        self.regions.clear()

    def map(self, zone: dict[str, Any], gpa: int, size: int, offset: int) -> None:
        """Map a range as its zone says (create_ram_region of memory_manager.rs)."""
        shared, path = bool(zone.get("shared")), zone.get("file")
        fd = -1
        if path is not None:
            fd = _open(path, shared)
        elif shared or self._is_file:
            fd = os.memfd_create("ch_ram", os.MFD_CLOEXEC)
            try:
                os.ftruncate(fd, size)
            except OSError as exc:
                raise ApiError("Failed to set shared file length", os_error(exc)) from exc
            offset = 0
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        if fd < 0:
            memory = mmap.mmap(-1, size, flags=flags | mmap.MAP_ANONYMOUS)
        else:
            memory = mmap.mmap(fd, size, flags=flags, offset=offset)
        kept = offset if path is not None else 0
        self.regions.append(
            Region(gpa, size, zone["id"], kept, shared, path is not None, memory, fd)
        )

    # -- saving ---------------------------------------------------------------------------

    def ranges(self) -> list[dict[str, int]]:
        """What is written into the memory's file: not what a named, shared file holds anyway."""
        return [
            {"gpa": region.gpa, "length": region.size}
            for region in self.regions
            if not (region.shared and region.is_named and os.fstat(region.fd).st_nlink > 0)
        ]

    def state(self) -> str:
        """The memory manager's part of state.json."""
        mappings = [
            {
                "slot": slot,
                "gpa": region.gpa,
                "size": region.size,
                "zone_id": region.zone,
                "virtio_mem": False,
                "file_offset": region.offset,
            }
            for slot, region in enumerate(self.regions)
        ]
        total = sum(region.size for region in self.regions)
        return json.dumps(
            {
                "memory_ranges": {"data": self.ranges()},
                "guest_ram_mappings": mappings,
                "boot_ram": total,
                "current_ram": total,
                "next_memory_slot": len(mappings),
            }
        )

    def save(self, path: Path, *, is_sparse: bool) -> None:
        """Write the ranges one after the other. is_sparse: the version leaves holes of shared
        memory, and gives the file its length before anything is in it.
        """
        ranges = self.ranges()
        if not ranges:
            return
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            if is_sparse:
                os.ftruncate(fd, sum(part["length"] for part in ranges))
            at = 0
            for part in ranges:
                region = next(one for one in self.regions if one.gpa == part["gpa"])
                _write(fd, at, region, is_sparse=is_sparse and region.shared)
                at += region.size
        finally:
            os.close(fd)

    # -- restoring ------------------------------------------------------------------------

    def restore(
        self, state: dict[str, Any], zones: list[dict[str, Any]], source: Path, mode: str
    ) -> None:
        """Map what the state names, then fill it in the way of a mode."""
        for mapping in state["guest_ram_mappings"]:
            for zone in zones:
                if zone["id"] == mapping["zone_id"]:
                    size, offset = mapping["size"], mapping["file_offset"]
                    self.map(zone, mapping["gpa"], size, offset)
        ranges = state["memory_ranges"]["data"]
        if not ranges:
            return
        if mode == "OnDemand" and any(part["length"] % 4096 for part in ranges):
            raise ApiError("Snapshot ranges are not page-aligned")
        self._fill(ranges, source, is_mapped=mode == "CopyOnWrite")

    def _fill(self, ranges: list[dict[str, int]], source: Path, *, is_mapped: bool) -> None:
        try:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise ApiError("Failed to open memory snapshot file", os_error(exc)) from exc
        try:
            at = 0
            for part in ranges:
                index = next(i for i, r in enumerate(self.regions) if r.gpa == part["gpa"])
                if is_mapped:
                    self._remap(index, fd, at)
                else:
                    _read(fd, at, self.regions[index], part["length"])
                at += part["length"]
        finally:
            os.close(fd)

    def _remap(self, index: int, fd: int, at: int) -> None:
        """Over private anonymous memory: a private mapping of the file."""
        region = self.regions[index]
        region.memory.close()
        mine = os.dup(fd)
        region.memory = mmap.mmap(mine, region.size, flags=mmap.MAP_PRIVATE, offset=at)
        region.fd = mine

    # -- the guest ------------------------------------------------------------------------

    def boot(self, guest: dict[str, Any], data_bytes: int) -> None:
        """Put a guest into it. data_bytes: pages that are not zero, the first in each region."""
        for region in self.regions:
            for at in range(0, min(data_bytes, region.size), 4096):
                region.memory[at : at + 8] = (region.gpa + at + 1).to_bytes(8, "little")
        text = MARK + json.dumps(guest).encode()
        self.regions[0].memory[STATE_AT : STATE_AT + len(text) + 1] = text + b"\0"

    def guest(self) -> dict[str, Any] | None:
        """Who runs in it; None if there is nobody, as in memory that was not restored."""
        memory = self.regions[0].memory
        text = memory[STATE_AT : memory.find(b"\0", STATE_AT)]
        if not text.startswith(MARK):
            return None
        if any(not _is_whole(region) for region in self.regions):
            return None
        found: dict[str, Any] = json.loads(text[len(MARK) :])
        return found

    def write(self, data: bytes) -> None:
        """As a guest that runs."""
        self.regions[0].memory[SCRATCH_AT : SCRATCH_AT + len(data)] = data

    def read(self, size: int) -> bytes:
        """What was written last."""
        return bytes(self.regions[0].memory[SCRATCH_AT : SCRATCH_AT + size])


def _is_whole(region: Region) -> bool:
    """Whether a region's first page is the one that its guest was booted with."""
    return int.from_bytes(region.memory[:8], "little") == region.gpa + 1


def _open(path: str, shared: bool) -> int:
    try:
        return os.open(path, (os.O_RDWR if shared else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as exc:
        raise ApiError("Cannot open the file of a memory zone", os_error(exc)) from exc


def _write(fd: int, at: int, region: Region, *, is_sparse: bool) -> None:
    for start in range(0, region.size, 1 << 16):
        block = region.memory[start : start + (1 << 16)]
        if not is_sparse or block.strip(b"\0"):
            os.pwrite(fd, block, at + start)


def _read(fd: int, at: int, region: Region, length: int) -> None:
    for start in range(0, length, 1 << 16):
        block = os.pread(fd, min(1 << 16, length - start), at + start)
        if len(block) < min(1 << 16, length - start):
            raise ApiError("Failed to read memory snapshot file", "failed to fill whole buffer")
        region.memory[start : start + len(block)] = block


def os_error(exc: OSError) -> str:
    """As Rust's io::Error says it."""
    return f"{os.strerror(exc.errno or 0)} (os error {exc.errno})"
