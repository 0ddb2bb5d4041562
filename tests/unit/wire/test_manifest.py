"""The text of manifest.json."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.wire import manifest as wire
from tests.unit.store.samples import MANIFEST

TEXT = wire.encode(MANIFEST)


def frame(body: bytes) -> bytes:
    """A file whose digest is right, whatever it says."""
    return b'{"sha256":"%s","manifest":%s}\n' % (hashlib.sha256(body).hexdigest().encode(), body)


def test_a_manifest_survives_the_round_trip() -> None:
    assert wire.decode(TEXT) == MANIFEST


@given(
    st.builds(
        wire.Manifest,
        format_version=st.just(wire.FORMAT_VERSION),
        vmm=st.from_type(wire.VmmFacts),
        memory=st.just(MANIFEST.memory),
        device_state=st.just(MANIFEST.device_state),
    )
)
def test_any_text_survives_the_round_trip(manifest: wire.Manifest) -> None:
    try:
        text = wire.encode(manifest)
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    assert wire.decode(text) == manifest


SNAPSHOT = wire.SnapshotFacts("c-1", "team", "python", "uid-1", "sha256:" + "0" * 64)


def test_a_template_of_no_cluster_is_written_so_that_older_programs_read_it() -> None:
    assert wire.format_for(None) == 1
    old = msgspec.structs.replace(MANIFEST, format_version=1)
    assert b"snapshot" not in wire.encode(old)
    assert wire.decode(wire.encode(old)) == old


def test_the_snapshot_of_a_cluster_survives_the_round_trip() -> None:
    version = wire.format_for(SNAPSHOT)
    made = msgspec.structs.replace(MANIFEST, format_version=version, snapshot=SNAPSHOT)
    assert wire.decode(wire.encode(made)) == made


def test_a_snapshot_in_a_format_that_has_none_is_damage() -> None:
    wrong = msgspec.structs.replace(MANIFEST, format_version=1, snapshot=SNAPSHOT)
    with pytest.raises(wire.ManifestDamagedError, match="format 1 names no snapshot"):
        wire.decode(wire.encode(wrong))


def test_the_file_is_json_that_other_tools_can_check() -> None:
    found = json.loads(TEXT)
    body = TEXT[TEXT.index(b'"manifest":') + 11 : -2]
    assert found["sha256"] == hashlib.sha256(body).hexdigest()
    assert found["manifest"]["name"] == MANIFEST.name


def test_every_flipped_bit_is_found() -> None:
    for at in range(len(TEXT)):
        for bit in range(8):
            damaged = bytearray(TEXT)
            damaged[at] ^= 1 << bit
            with pytest.raises(wire.ManifestDamagedError):
                wire.decode(bytes(damaged))


def test_every_cut_is_found() -> None:
    for length in range(len(TEXT)):
        with pytest.raises(wire.ManifestDamagedError):
            wire.decode(TEXT[:length])


@pytest.mark.parametrize("tail", [b" ", b"\n", b"\0", b"{}"], ids=repr)
def test_anything_after_the_end_is_found(tail: bytes) -> None:
    with pytest.raises(wire.ManifestDamagedError):
        wire.decode(TEXT + tail)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(wire.ManifestDamagedError):
        wire.decode(data)


@pytest.mark.parametrize(
    "where", [(), ("memory",), ("vmm",), ("guest",)], ids=lambda path: ".".join(path) or "top"
)
def test_an_unknown_member_is_refused(where: tuple[str, ...]) -> None:
    found = msgspec.to_builtins(MANIFEST)
    inner = found
    for member in where:
        inner = inner[member]
    inner["surprise"] = 1
    with pytest.raises(wire.ManifestDamagedError, match="surprise"):
        wire.decode(frame(msgspec.json.encode(found)))


@pytest.mark.parametrize("member", sorted(set(MANIFEST.__struct_fields__) - {"snapshot"}))
def test_a_missing_member_is_refused(member: str) -> None:
    found = msgspec.to_builtins(MANIFEST)
    del found[member]
    with pytest.raises(wire.ManifestDamagedError):
        wire.decode(frame(msgspec.json.encode(found)))


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"1", b'"x"', b"\xff"], ids=repr)
def test_a_sound_frame_around_something_else_is_refused(body: bytes) -> None:
    with pytest.raises(wire.ManifestDamagedError):
        wire.decode(frame(body))


def test_another_format_is_told_from_damage() -> None:
    newer = msgspec.to_builtins(MANIFEST) | {"format_version": wire.FORMAT_VERSION + 1, "new": 1}
    with pytest.raises(wire.ManifestVersionError, match=f"format {wire.FORMAT_VERSION + 1}"):
        wire.decode(frame(msgspec.json.encode(newer)))


@pytest.mark.parametrize(
    ("part", "member", "value"),
    [
        ("memory", "size_bytes", 0),
        ("memory", "size_bytes", -1),
        ("memory", "size_bytes", 1 << 40),
        ("memory", "chunk_bytes", 0),
        ("memory", "chunk_bytes", -1),
        ("memory", "data_bytes", -1),
        ("memory", "data_bytes", 4 << 20),
        ("memory", "chunk_hashes", []),
        ("memory", "chunk_hashes", ["0" * 16, "0" * 15]),
        ("memory", "chunk_hashes", ["0" * 16, "X" * 16]),
        ("device_state", "size_bytes", -1),
        ("device_state", "sha256", "ab"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    part: str, member: str, value: object
) -> None:
    found = msgspec.to_builtins(MANIFEST)
    found[part][member] = value
    with pytest.raises(wire.ManifestDamagedError):
        wire.decode(frame(msgspec.json.encode(found)))
