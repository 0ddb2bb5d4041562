"""Taking a bzImage apart."""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess

import pytest

from agentd.image.kernel import PayloadUnreadableError, extract_vmlinux

ELF = b"\x7fELF" + bytes(range(256)) * 64


def bzimage(payload: bytes, *, setup_sectors: int = 4, offset: int = 100) -> bytes:
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, offset, len(payload))
    return bytes(setup) + bytes(offset) + payload + b"trailing code"


def with_size(packed: bytes) -> bytes:
    return packed + struct.pack("<I", len(ELF))


def test_an_xz_payload_is_unpacked() -> None:
    assert extract_vmlinux(bzimage(with_size(lzma.compress(ELF)))) == ELF


def test_a_gzip_payload_carries_its_size_itself() -> None:
    assert extract_vmlinux(bzimage(gzip.compress(ELF))) == ELF


@pytest.mark.skipif(shutil.which("lz4") is None, reason="the lz4 tool is not installed")
def test_an_lz4_payload_is_unpacked() -> None:
    packed = subprocess.run(["lz4", "-l", "-c"], input=ELF, capture_output=True, check=True).stdout
    assert extract_vmlinux(bzimage(with_size(packed))) == ELF


def test_a_missing_lz4_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(PayloadUnreadableError, match="Debian package lz4"):
        extract_vmlinux(bzimage(with_size(b"\x02\x21\x4c\x18data")))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "no x86 setup header"),
        (b"MZ" + bytes(4096), "no x86 setup header"),
        (bzimage(with_size(b"\x28\xb5\x2f\xfdzstd")), "28b52ffd, not LZ4"),
        (bzimage(with_size(lzma.compress(ELF)[:-40])), "does not decompress"),
        (bzimage(with_size(lzma.compress(ELF[:-1]))), "not an ELF file of"),
        (bzimage(with_size(lzma.compress(b"no" + ELF[2:]))), "not an ELF file"),
        (bzimage(with_size(lzma.compress(ELF)))[:3000], "outside the file"),
        (bzimage(b"\x02\x21"), "outside the file"),
    ],
    ids=["empty", "no header", "zstd", "cut", "wrong size", "no elf", "cut file", "tiny"],
)
def test_what_cannot_be_read_says_why(image: bytes, reason: str) -> None:
    with pytest.raises(PayloadUnreadableError, match=reason):
        extract_vmlinux(image)
