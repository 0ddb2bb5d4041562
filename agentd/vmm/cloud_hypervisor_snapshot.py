"""Keep what Cloud Hypervisor saves of a machine beside its memory, as one blob.

The blob is a line of JSON that holds both files of a snapshot as they were written: `config`, the
machine's description; `state`, a tree of components each of which keeps its own state as JSON in a
string. Of the state one component is looked into: the memory manager says which range of guest
memory follows which in the file of the memory, and which zone maps what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from agentd.units import PAGE_BYTES

FORMAT: Final = 1
MAX_BYTES: Final = 64 * 1024 * 1024  # of the blob; a machine of hundreds of CPUs takes a few MiB


class SnapshotDamagedError(ValueError):
    """The bytes are not what a snapshot consists of; the text says what is wrong with them."""


class _Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    config: msgspec.Raw
    state: msgspec.Raw


class _Range(msgspec.Struct, frozen=True):
    gpa: int
    length: int


class _Ranges(msgspec.Struct, frozen=True):
    data: list[_Range]


class _Mapping(msgspec.Struct, frozen=True):
    gpa: int
    size: int
    virtio_mem: bool = False


class _Memory(msgspec.Struct, frozen=True):
    """What the memory manager says, of all it says."""

    memory_ranges: _Ranges
    guest_ram_mappings: list[_Mapping]


@dataclass(frozen=True)
class Snapshot:
    """A saved machine.

    config: its description. state: of its components. mapped_state: the same for a machine whose
    memory is there already because it is mapped, None if this one's cannot be. memory_bytes: length
    of the memory's file.
    """

    config: dict[str, Any]
    state: bytes
    mapped_state: bytes | None
    memory_bytes: int

    @property
    def is_shared(self) -> bool:
        """Whether others could write the memory that the machine had."""
        return all(zone.get("shared", False) for zone in self.config["memory"]["zones"])


def encode_snapshot(config: bytes, state: bytes) -> bytes:
    """Put both files of a snapshot into one blob. Raises: SnapshotDamagedError."""
    blob = msgspec.json.encode(
        _Blob(FORMAT, _raw("config.json", config), _raw("state.json", state))
    )
    decode_snapshot(blob)
    return blob


def decode_snapshot(blob: bytes) -> Snapshot:
    """Read what `encode_snapshot` wrote. Raises: SnapshotDamagedError."""
    try:
        parts = msgspec.json.decode(blob, type=_Blob)
    except msgspec.MsgspecError as exc:
        raise SnapshotDamagedError(f"it is no snapshot: {exc}") from exc
    if parts.format != FORMAT:
        raise SnapshotDamagedError(f"its format is {parts.format}, this program reads {FORMAT}")
    config = _config(bytes(parts.config))
    state = bytes(parts.state)
    tree, memory = _memory(state)
    return Snapshot(config, state, _mapped(tree, memory), _file_bytes(memory))


def _raw(name: str, data: bytes) -> msgspec.Raw:
    try:
        msgspec.json.decode(data)
    except msgspec.MsgspecError as exc:  # one write(2) may have been cut short
        raise SnapshotDamagedError(f"{name} is not whole: {exc}") from exc
    return msgspec.Raw(data)


def _config(data: bytes) -> dict[str, Any]:
    try:
        config = msgspec.json.decode(data, type=dict[str, Any])
        zones, kernel = config["memory"]["zones"], config["payload"]["kernel"]
        if not all(isinstance(zone["id"], str) for zone in zones) or not (zones and kernel):
            raise KeyError("a zone")
    except (msgspec.MsgspecError, KeyError, TypeError) as exc:
        raise SnapshotDamagedError(f"config.json does not describe a machine: {exc}") from exc
    return config


def _memory(state: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state as a tree, the memory manager's part of it."""
    try:
        tree = msgspec.json.decode(state, type=dict[str, Any])
        text = tree["snapshots"]["memory-manager"]["snapshot_data"]["state"]
        memory = msgspec.json.decode(text, type=dict[str, Any])
        msgspec.convert(memory, type=_Memory)
    except (msgspec.MsgspecError, KeyError, TypeError) as exc:
        raise SnapshotDamagedError(f"state.json does not say where memory is: {exc}") from exc
    return tree, memory


def _file_bytes(memory: dict[str, Any]) -> int:
    ranges = msgspec.convert(memory, type=_Memory).memory_ranges.data
    if not ranges or any(part.length <= 0 or part.length % PAGE_BYTES for part in ranges):
        raise SnapshotDamagedError("state.json names no memory, or parts of pages")
    return sum(part.length for part in ranges)


def _mapped(tree: dict[str, Any], memory: dict[str, Any]) -> bytes | None:
    """The state of a machine that maps the file of its memory: there are no ranges to be read from
    it, and each mapping begins where its range is in the file, which is one zone's.
    """
    offsets = map_offsets(msgspec.convert(memory, type=_Memory))
    if offsets is None:
        return None
    mappings = [
        {**mapping, "file_offset": offset}
        for mapping, offset in zip(memory["guest_ram_mappings"], offsets, strict=True)
    ]
    mapped = {**memory, "memory_ranges": {"data": []}, "guest_ram_mappings": mappings}
    text = msgspec.json.encode(mapped).decode()
    part = {**tree["snapshots"]["memory-manager"], "snapshot_data": {"state": text}}
    return msgspec.json.encode({**tree, "snapshots": {**tree["snapshots"], "memory-manager": part}})


def map_offsets(memory: _Memory) -> list[int] | None:
    """Where in the file of the memory each mapping of guest memory begins.

    None if that cannot be said: of memory that can be unplugged, or is not whole in the file.
    """
    starts: dict[tuple[int, int], int] = {}
    at = 0
    for part in memory.memory_ranges.data:
        starts[part.gpa, part.length] = at
        at += part.length
    mappings = memory.guest_ram_mappings
    offsets = [starts.get((mapping.gpa, mapping.size), -1) for mapping in mappings]
    is_whole = len(offsets) == len(starts) and -1 not in offsets
    return offsets if is_whole and not any(one.virtio_mem for one in mappings) else None
