"""What is kept of a snapshot, and how a machine's memory lies in its file."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from agentd.units import MIB
from agentd.vmm.cloud_hypervisor_snapshot import (
    SnapshotDamagedError,
    decode_snapshot,
    encode_snapshot,
)

CONFIG: dict[str, Any] = {
    "memory": {"size": 0, "zones": [{"id": "ram", "size": 4 * MIB, "shared": False}]},
    "payload": {"kernel": "/proc/self/fd/20/kernel"},
}
LOW = {"gpa": 0, "length": 3 * MIB}
HIGH = {"gpa": 4 << 30, "length": MIB}


def mapping(part: dict[str, int], **members: Any) -> dict[str, Any]:
    found = {"slot": 0, "gpa": part["gpa"], "size": part["length"], "zone_id": "ram"}
    return {**found, "virtio_mem": False, "file_offset": 0, **members}


def state(
    ranges: list[dict[str, int]], mappings: list[dict[str, Any]], **members: Any
) -> dict[str, Any]:
    """As v48 to v53 write it."""
    memory = {"memory_ranges": {"data": ranges}, "guest_ram_mappings": mappings, "boot_ram": 1}
    parts = {
        "cpu-manager": {"snapshots": {}, "snapshot_data": None},
        "memory-manager": {
            "snapshots": {},
            "snapshot_data": {"state": json.dumps({**memory, **members})},
        },
    }
    return {"snapshots": parts, "snapshot_data": {"state": json.dumps({"common_cpuid": []})}}


WHOLE = state([LOW, HIGH], [mapping(LOW), mapping(HIGH, slot=1)])


def encode(config: Any = CONFIG, tree: Any = WHOLE) -> bytes:
    return encode_snapshot(json.dumps(config).encode(), json.dumps(tree).encode())


def memory_of(text: bytes | None) -> dict[str, Any]:
    assert text is not None
    part = json.loads(text)["snapshots"]["memory-manager"]["snapshot_data"]
    found: dict[str, Any] = json.loads(part["state"])
    return found


def test_both_files_come_back_as_they_were_written() -> None:
    odd = b'{ "memory":{"zones":[{"id":"ram","size":1}]},"payload":{"kernel":"k"},"x":1e3 }'
    text = json.dumps(WHOLE, indent=3).encode()
    snapshot = decode_snapshot(encode_snapshot(odd, text))
    assert snapshot.config == json.loads(odd)
    assert snapshot.state == text
    assert snapshot.memory_bytes == 4 * MIB


def test_one_zone_that_is_not_shared_makes_memory_that_is_not() -> None:
    zones = [{"id": "a", "shared": True}, {"id": "b", "shared": True}]
    config = {**CONFIG, "memory": {"zones": zones}}
    assert decode_snapshot(encode(config)).is_shared
    zones[1] = {"id": "b"}
    assert not decode_snapshot(encode(config)).is_shared


def test_a_mapped_machine_reads_nothing_and_maps_each_range_where_it_is_in_the_file() -> None:
    """A machine with more than 3 GiB has a hole below 4 GiB; the file has none."""
    mapped = memory_of(decode_snapshot(encode()).mapped_state)
    assert mapped["memory_ranges"] == {"data": []}
    offsets = {one["gpa"]: one["file_offset"] for one in mapped["guest_ram_mappings"]}
    assert offsets == {0: 0, 4 << 30: 3 * MIB}


def test_ranges_in_another_order_are_found_where_they_are() -> None:
    tree = state([HIGH, LOW], [mapping(LOW), mapping(HIGH, slot=1)])
    mapped = memory_of(decode_snapshot(encode(tree=tree)).mapped_state)
    offsets = {one["gpa"]: one["file_offset"] for one in mapped["guest_ram_mappings"]}
    assert offsets == {0: MIB, 4 << 30: 0}


def test_nothing_else_of_the_state_is_changed() -> None:
    snapshot = decode_snapshot(encode(tree=state([LOW], [mapping(LOW)], of_later_versions=[1])))
    assert snapshot.mapped_state is not None
    before, after = json.loads(snapshot.state), json.loads(snapshot.mapped_state)
    assert memory_of(snapshot.mapped_state)["of_later_versions"] == [1]
    del before["snapshots"]["memory-manager"], after["snapshots"]["memory-manager"]
    assert before == after


@pytest.mark.parametrize(
    "tree",
    [
        state([LOW], [mapping(LOW, virtio_mem=True)]),
        state([LOW, HIGH], [mapping(LOW)]),
        state([LOW], [mapping(LOW), mapping(HIGH)]),
        state([LOW], [mapping(LOW, size=MIB)]),
    ],
    ids=["unpluggable", "range_without_mapping", "mapping_without_range", "part_of_a_range"],
)
def test_memory_that_is_not_whole_in_the_file_is_not_mapped(tree: dict[str, Any]) -> None:
    snapshot = decode_snapshot(encode(tree=tree))
    assert snapshot.mapped_state is None
    assert snapshot.memory_bytes > 0, "it can be copied"


@pytest.mark.parametrize(
    ("config", "tree", "words"),
    [
        ({}, WHOLE, "does not describe a machine"),
        ({**CONFIG, "memory": {"zones": None}}, WHOLE, "does not describe a machine"),
        ({**CONFIG, "memory": {"zones": []}}, WHOLE, "does not describe a machine"),
        ({**CONFIG, "payload": None}, WHOLE, "does not describe a machine"),
        ([], WHOLE, "does not describe a machine"),
        (CONFIG, {}, "does not say where memory is"),
        (CONFIG, {"snapshots": {"memory-manager": {"snapshot_data": None}}}, "does not say"),
        (CONFIG, state([], []), "names no memory"),
        (CONFIG, state([{"gpa": 0, "length": 100}], []), "parts of pages"),
        (CONFIG, state([{"gpa": 0, "length": -4096}], []), "parts of pages"),
        (CONFIG, state([{"gpa": 0}], []), "does not say where memory is"),  # type: ignore[dict-item]
    ],
)
def test_files_that_are_not_a_snapshots_are_refused(config: Any, tree: Any, words: str) -> None:
    with pytest.raises(SnapshotDamagedError, match=words):
        encode(config, tree)


@pytest.mark.parametrize("cut", [0, 1, 30, -1])
def test_a_file_that_was_cut_short_is_named(cut: int) -> None:
    """Each is written by one write(2), the end of which nobody looks at."""
    text, whole = json.dumps(WHOLE).encode(), json.dumps(CONFIG).encode()
    with pytest.raises(SnapshotDamagedError, match=r"state\.json is not whole"):
        encode_snapshot(whole, text[:cut])
    with pytest.raises(SnapshotDamagedError, match=r"config\.json is not whole"):
        encode_snapshot(whole[:cut], text)


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"", "no snapshot"),
        (b"QEVM\0\0\0\3", "no snapshot"),
        (b'{"format":2,"config":{},"state":{}}', "its format is 2"),
        (b'{"format":1,"config":{},"state":{},"more":1}', "no snapshot"),
    ],
)
def test_a_blob_of_something_else_is_refused(blob: bytes, words: str) -> None:
    with pytest.raises(SnapshotDamagedError, match=words):
        decode_snapshot(blob)


def test_no_cut_of_a_blob_is_one() -> None:
    blob = encode()
    for end in range(0, len(blob), 7):
        with pytest.raises(SnapshotDamagedError):
            decode_snapshot(blob[:end])
    assert msgspec.json.decode(blob)["format"] == 1
