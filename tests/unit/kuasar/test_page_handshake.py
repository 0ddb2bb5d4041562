"""Whatever reaches the page server's socket is a whole handshake, or one clear error."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import ErrorCode, PeerError
from agentd.kuasar.page_handshake import (
    MESSAGE_MAX_BYTES,
    RANGES_MAX,
    ExternalFile,
    ExternalSource,
    Handshake,
    parse_handshake,
    parse_manifest,
    sandbox_id_of,
)

PAGE = 4096
MIB = 1024 * 1024
SANDBOX = "0123456789abcdef" * 4
IMAGE = f"/run/kuasar-vmm/{SANDBOX}/restore/memory.img"


def mapping(**changes: Any) -> dict[str, Any]:
    found = {
        "base_host_virt_addr": 0x7F00_0000_0000,
        "size": 512 * MIB,
        "offset": 0,
        "page_size": PAGE,
        "gpa": 0,
        "zone_id": "mem0",
    }
    return found | changes


HIGH = mapping(base_host_virt_addr=0x7E00_0000_0000, offset=512 * MIB, gpa=4096 * MIB, zone_id=None)


def handshake(*mappings: Any, **changes: Any) -> dict[str, Any]:
    found = {"version": 1, "snapshot_path": IMAGE, "mappings": list(mappings or (mapping(), HIGH))}
    return found | changes


def memory_range(**changes: Any) -> dict[str, Any]:
    found = {
        "gpa": 0,
        "size": 512 * MIB,
        "snapshot_offset": 0,
        "zone_id": "mem0",
        "virtio_mem": False,
        "page_size": PAGE,
        "data_source": "SnapshotFile",
    }
    return found | changes


def manifest(*entries: Any, **changes: Any) -> dict[str, Any]:
    found = {
        "version": 1,
        "snapshot_file": "memory-ranges",
        "entries": list(entries or (memory_range(),)),
    }
    return found | changes


def external(**changes: Any) -> dict[str, Any]:
    file = {"path": "/var/lib/images/base", "file_offset": 0} | changes
    return memory_range(data_source={"ExternalFile": file})


def parsed(body: Any) -> Handshake:
    return parse_handshake(json.dumps(body).encode())


def refusal(parse: Any, message: Any) -> str:
    """Why it is refused; it is, by the one error, and shortly."""
    with pytest.raises(PeerError) as caught:
        parse(message)
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL
    assert caught.value.hint
    assert len(str(caught.value)) < 600
    return str(caught.value)


# -- the handshake ----------------------------------------------------------------------------


def test_a_machine_with_memory_below_and_above_the_hole_is_taken() -> None:
    found = parsed(handshake())
    assert found.snapshot_path == IMAGE
    low, high = found.mappings
    assert (low.base_host_virt_addr, low.size, low.offset) == (0x7F00_0000_0000, 512 * MIB, 0)
    assert (low.page_size, low.gpa, low.zone_id) == (PAGE, 0, "mem0")
    assert (high.gpa, high.offset, high.zone_id) == (4096 * MIB, 512 * MIB, None)


def test_a_member_of_a_newer_monitor_is_no_fault() -> None:
    assert parsed(handshake(mapping(numa_node=1), pid=3)).mappings == (
        parsed(handshake(mapping())).mappings
    )


def test_a_zone_need_not_be_named() -> None:
    body = mapping()
    del body["zone_id"]
    assert parsed(handshake(body)).mappings[0].zone_id is None


EDGES: dict[str, dict[str, Any]] = {
    "one page": {"size": PAGE},
    "at the start": {"base_host_virt_addr": 0},
    "up to the end of addresses": {"base_host_virt_addr": (1 << 64) - PAGE, "size": PAGE},
    "2 MiB pages": {"page_size": 2 * MIB},
    "1 GiB pages": {"page_size": 1024 * MIB, "size": 1024 * MIB, "base_host_virt_addr": 1 << 40},
}


@pytest.mark.parametrize("case", EDGES)
def test_a_mapping_at_the_edge_is_taken(case: str) -> None:
    assert len(parsed(handshake(mapping(**EDGES[case]))).mappings) == 1


BAD_MAPPINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({"size": 0}, "0 bytes"),
    "negative size": ({"size": -PAGE}, "-4096 bytes"),
    "half a page": ({"size": PAGE // 2}, "2048 is no multiple"),
    "odd address": ({"base_host_virt_addr": PAGE + 1}, "4097 is no multiple"),
    "odd offset": ({"offset": 1}, "1 is no multiple"),
    "odd for huge pages": ({"page_size": 2 * MIB, "offset": PAGE}, "4096 is no multiple"),
    "no page": ({"page_size": 0}, "0 is no size of a page"),
    "negative page": ({"page_size": -PAGE}, "-4096 is no size of a page"),
    "small page": ({"page_size": 512}, "512 is no size of a page"),
    "odd page": ({"page_size": 3 * PAGE}, "12288 is no size of a page"),
    "monstrous page": ({"page_size": 1 << 40}, "is no size of a page"),
    "negative address": ({"base_host_virt_addr": -PAGE}, "are not within"),
    "beyond all addresses": ({"base_host_virt_addr": (1 << 64) - PAGE}, "are not within"),
    "address of 65 bits": ({"base_host_virt_addr": 1 << 64}, "a number of 65 bits"),
    "address of 1000 bits": ({"base_host_virt_addr": 1 << 1000}, "a number of 1001 bits"),
    "negative offset": ({"offset": -PAGE}, "are not within"),
    "beyond any file": ({"offset": (1 << 63) - PAGE}, "are not within"),
    "negative gpa": ({"gpa": -1}, "are not within"),
    "gpa beyond all addresses": ({"gpa": (1 << 64) - 1}, "are not within"),
    "text": ({"size": "4096"}, "$.mappings[0].size"),
    "fraction": ({"size": 4096.0}, "$.mappings[0].size"),
    "truth": ({"gpa": True}, "$.mappings[0].gpa"),
    "null": ({"offset": None}, "$.mappings[0].offset"),
    "zone of a number": ({"zone_id": 3}, "$.mappings[0].zone_id"),
}


@pytest.mark.parametrize("case", BAD_MAPPINGS)
def test_a_mapping_that_is_none_is_refused(case: str) -> None:
    changes, expected = BAD_MAPPINGS[case]
    assert expected in refusal(parsed, handshake(mapping(**changes)))


@pytest.mark.parametrize("name", sorted(mapping().keys() - {"zone_id"}))
def test_a_mapping_without_a_number_is_refused(name: str) -> None:
    body = mapping()
    del body[name]
    assert f"`{name}`" in refusal(parsed, handshake(body))


BAD_HANDSHAKES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "reading a handshake"),
    "cut": (json.dumps(handshake()).encode()[:-1], "reading a handshake"),
    "two": (json.dumps(handshake()).encode() * 2, "reading a handshake"),
    "binary": (bytes(range(256)), "reading a handshake"),
    "no UTF-8": (b'{"version": 1, "snapshot_path": "/\xff"}', "reading a handshake"),
    "half a surrogate": (rb'{"version": 1, "snapshot_path": "/\udc00"}', "reading a handshake"),
    "deep": (b"[" * 100_000, "reading a handshake"),
    "endless": (b" " * (MESSAGE_MAX_BYTES + 1), "of at most"),
    "list": (b"[]", "Expected `object`"),
    "no version": (b"{}", "`version`"),
    "next version": (b'{"version": 2, "regions": []}', "it is of version 2, known is 1"),
    "vast version": (b'{"version": ' + b"9" * 400 + b"}", "version"),
}


@pytest.mark.parametrize("case", BAD_HANDSHAKES)
def test_what_is_no_handshake_is_refused(case: str) -> None:
    message, expected = BAD_HANDSHAKES[case]
    assert expected in refusal(parse_handshake, message)


def test_mappings_that_share_an_address_are_refused_in_any_order() -> None:
    low = mapping()
    inside = mapping(base_host_virt_addr=low["base_host_virt_addr"] + low["size"] - PAGE)
    for order in ([low, inside], [inside, low], [low, HIGH, low]):
        assert "overlap" in refusal(parsed, handshake(*order))


def test_mappings_that_touch_are_taken() -> None:
    low = mapping()
    following = mapping(base_host_virt_addr=low["base_host_virt_addr"] + low["size"])
    assert len(parsed(handshake(following, low)).mappings) == 2


@pytest.mark.parametrize(
    ("count", "is_taken"), [(0, False), (1, True), (RANGES_MAX, True), (RANGES_MAX + 1, False)]
)
def test_a_machine_has_some_mappings_not_any_number(count: int, is_taken: bool) -> None:
    body = handshake(mappings=[
        mapping(base_host_virt_addr=n * PAGE, size=PAGE, offset=n * PAGE) for n in range(count)
    ])  # fmt: skip
    if is_taken:
        assert len(parsed(body).mappings) == count
    else:
        assert f"{count} ranges" in refusal(parsed, body)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "memory.img",
        "../memory.img",
        "/run/../etc/memory.img",
        "//run/memory.img",
        "/run//memory.img",
        "/run/memory.img/",
        "/etc/shadow",
        "/run/memory.img.bak",
        "/run/a\0b/memory.img",
        "/" + "x" * 4096 + "/memory.img",
        "/" + "ü" * 2048 + "/memory.img",
    ],
    ids=lambda path: repr(path[:24]),
)
def test_a_path_that_names_no_image_is_refused(path: str) -> None:
    assert "is not the" in refusal(parsed, handshake(snapshot_path=path))


# -- whose it is --------------------------------------------------------------------------------


def test_the_path_of_the_image_names_the_sandbox() -> None:
    assert sandbox_id_of(IMAGE) == SANDBOX
    assert sandbox_id_of("/restore/restored_vm-1/restore/memory.img") == "restored_vm-1"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "memory.img",
        "/restore/memory.img",
        "//restore/memory.img",
        "/run/short/restore/memory.img",
        f"/run/{SANDBOX}x/restore/memory.img",
        f"/run/{SANDBOX}/memory.img",
        f"/run/{SANDBOX}/restored/memory.img",
        f"/run/{SANDBOX}/restore/memory-ranges",
        "/run/with.a.dot.in.it/restore/memory.img",
        "/run/0123456789ab\n/restore/memory.img",
    ],
)
def test_a_path_of_another_shape_names_none(path: str) -> None:
    refusal(sandbox_id_of, path)


# -- the manifest -------------------------------------------------------------------------------


def test_a_manifest_says_where_each_range_is() -> None:
    entries = [memory_range(), external(file_offset=PAGE) | {"gpa": 4096 * MIB}]
    found = parse_manifest(json.dumps(manifest(*entries)).encode())
    assert found.snapshot_file == "memory-ranges"
    first, second = found.entries
    assert (first.gpa, first.size, first.snapshot_offset) == (0, 512 * MIB, 0)
    assert first.data_source == "SnapshotFile"
    assert second.data_source == ExternalSource(
        file=ExternalFile(path="/var/lib/images/base", file_offset=PAGE)
    )


def test_an_offset_need_not_be_said() -> None:
    found = parse_manifest(json.dumps(manifest(memory_range(snapshot_offset=None))).encode())
    assert found.entries[0].snapshot_offset is None


BAD_MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "version": (manifest(version=2), "it is of version 2"),
    "no ranges": (manifest(entries=[]), "0 ranges"),
    "too many ranges": (manifest(*[memory_range()] * (RANGES_MAX + 1)), "ranges, want"),
    "no file": (manifest(snapshot_file=""), "is not the name of a file"),
    "a file elsewhere": (manifest(snapshot_file="../x"), "is not the name of a file"),
    "parent": (manifest(snapshot_file=".."), "is not the name of a file"),
    "no size": (manifest(memory_range(size=0)), "0 bytes"),
    "odd size": (manifest(memory_range(size=1)), "1 is no multiple"),
    "odd offset": (manifest(memory_range(snapshot_offset=1)), "1 is no multiple"),
    "negative offset": (manifest(memory_range(snapshot_offset=-PAGE)), "are not within"),
    "no page": (manifest(memory_range(page_size=0)), "is no size of a page"),
    "gpa of 64 bits": (manifest(memory_range(gpa=(1 << 64) - 1)), "are not within"),
    "overlap": (manifest(memory_range(), memory_range(gpa=PAGE)), "overlap"),
    "truth of a number": (manifest(memory_range(virtio_mem=0)), "virtio_mem"),
    "another source": (manifest(memory_range(data_source="Elsewhere" * 100)), "data_source"),
    "another kind": (manifest(memory_range(data_source={"Socket": {}})), "ExternalFile"),
    "no external file": (manifest(external(path="")), "is not the path of a file"),
    "external odd offset": (manifest(external(file_offset=1)), "1 is no multiple"),
    "external beyond": (manifest(external(file_offset=1 << 63)), "are not within"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_a_manifest_that_is_none_is_refused(case: str) -> None:
    body, expected = BAD_MANIFESTS[case]
    assert expected in refusal(parse_manifest, json.dumps(body).encode())


# -- whatever comes -----------------------------------------------------------------------------

numbers = st.one_of(
    st.sampled_from([0, 1, PAGE, 2 * MIB, 512 * MIB, (1 << 63) - PAGE, 1 << 63, (1 << 64) - PAGE]),
    st.integers(min_value=-1, max_value=1 << 65),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, st.floats(), st.text(max_size=8))
junk = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
odd = st.one_of(numbers, leaves)


def nearly(body: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The same, with a member that may be anything, or not."""
    changes = st.dictionaries(st.sampled_from(sorted(body)), odd, max_size=1)
    return changes.map(lambda found: body | found)


mappings_like = st.tuples(nearly(mapping()), nearly(HIGH))
handshakes_like = mappings_like.flatmap(lambda found: nearly(handshake(*found)))
entries_like = st.tuples(nearly(memory_range()), nearly(memory_range(gpa=4096 * MIB)))
manifests_like = entries_like.flatmap(lambda found: nearly(manifest(*found)))


def outcome(parse: Any, message: Any) -> Any:
    """What it is, None if it is refused; every other error fails the test."""
    try:
        return parse(message)
    except PeerError:
        return None


@given(st.binary())
def test_any_bytes_are_refused_by_the_one_error(message: bytes) -> None:
    assert outcome(parse_handshake, message) is None
    assert outcome(parse_manifest, message) is None


@given(st.text())
def test_any_path_has_a_sandbox_or_the_one_error(path: str) -> None:
    assert outcome(sandbox_id_of, path) is None


@given(st.one_of(handshakes_like, junk))
def test_what_is_taken_can_be_served(body: Any) -> None:
    found: Handshake | None = outcome(parse_handshake, json.dumps(body).encode())
    if found is None:
        return
    for one in found.mappings:
        assert one.page_size in (1 << n for n in range(12, 31))
        assert one.size > 0
        for number in (one.size, one.base_host_virt_addr, one.offset):
            assert number % one.page_size == 0
            assert 0 <= number < 1 << 64
        assert one.base_host_virt_addr + one.size <= 1 << 64
        assert one.offset + one.size < 1 << 63
    starts = sorted((one.base_host_virt_addr, one.size) for one in found.mappings)
    assert all(start + size <= following for (start, size), (following, _) in pairwise(starts))


@given(st.one_of(manifests_like, junk))
def test_any_manifest_is_one_or_the_one_error(body: Any) -> None:
    found = outcome(parse_manifest, json.dumps(body).encode())
    assert found is None or all(one.size > 0 for one in found.entries)


layouts = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 16), st.sampled_from([PAGE, 2 * MIB])),
    min_size=1,
    max_size=8,
)


@given(layouts, st.randoms(use_true_random=False))
def test_every_sound_layout_is_taken_as_it_was_sent(
    layout: list[tuple[int, int, int]], random: Any
) -> None:
    sent, address, offset = [], 0, 0
    for gap, pages, page_size in layout:
        address = (-(-address // page_size) + gap) * page_size
        offset = -(-offset // page_size) * page_size
        size = pages * page_size
        sent.append(
            mapping(
                base_host_virt_addr=address,
                size=size,
                offset=offset,
                page_size=page_size,
                gpa=address,
            )
        )
        address, offset = address + size, offset + size
    random.shuffle(sent)
    found = parsed(handshake(*sent)).mappings
    assert [(one.base_host_virt_addr, one.size, one.offset) for one in found] == [
        (one["base_host_virt_addr"], one["size"], one["offset"]) for one in sent
    ]
