"""Taking the kernel proper out of its self-extracting wrapper.

A bzImage boots by decompressing itself inside the guest, which is slow under an emulator. The ELF
file in it can be booted directly through its PVH entry point. Sources: the kernel's
Documentation/arch/x86/boot.rst (setup header, payload_offset, payload_length) and the Xen PVH
start-info ABI, which QEMU's -kernel implements.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess
from typing import Final

_SECTOR_BYTES: Final = 512
_SETUP_SECTS: Final = 0x1F1
_MAGIC: Final = 0x202
_PAYLOAD: Final = 0x248  # le32 offset from the protected-mode code, le32 length
_SIZE_SUFFIX_BYTES: Final = 4  # the build appends the size of the decompressed payload
_LZ4_TIMEOUT_S: Final = 60.0


class PayloadUnreadableError(Exception):
    """Why a bzImage cannot be taken apart; the caller boots it as it is."""


def extract_vmlinux(bzimage: bytes) -> bytes:
    """The uncompressed ELF kernel of a bzImage.

    Raises: PayloadUnreadableError with the reason.
    """
    payload = _payload_of(bzimage)
    packed = payload[:-_SIZE_SUFFIX_BYTES]
    (size,) = struct.unpack("<I", payload[-_SIZE_SUFFIX_BYTES:])
    if payload.startswith(b"\x1f\x8b"):
        packed = payload  # gzip carries the size itself, as its own last four bytes
    try:
        vmlinux = _decompress(packed)
    except (OSError, EOFError, lzma.LZMAError, subprocess.SubprocessError) as exc:
        raise PayloadUnreadableError(f"its payload does not decompress: {exc}") from exc
    if len(vmlinux) != size or not vmlinux.startswith(b"\x7fELF"):
        raise PayloadUnreadableError(
            f"its payload holds {len(vmlinux)} bytes starting {vmlinux[:4]!r}, "
            f"and not an ELF file of {size} bytes"
        )
    return vmlinux


def _payload_of(bzimage: bytes) -> bytes:
    if len(bzimage) < _PAYLOAD + 8 or bzimage[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise PayloadUnreadableError("it has no x86 setup header")
    code = ((bzimage[_SETUP_SECTS] or 4) + 1) * _SECTOR_BYTES
    offset, length = struct.unpack_from("<II", bzimage, _PAYLOAD)
    payload = bzimage[code + offset : code + offset + length]
    if length <= _SIZE_SUFFIX_BYTES or len(payload) != length:
        raise PayloadUnreadableError(f"its payload of {length} bytes lies outside the file")
    return payload


def _decompress(packed: bytes) -> bytes:
    if packed.startswith(b"\x02\x21\x4c\x18"):
        return _lz4(packed)
    if packed.startswith(b"\x1f\x8b"):
        return gzip.decompress(packed)
    if packed.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(packed, format=lzma.FORMAT_XZ)
    raise PayloadUnreadableError(f"its payload starts with {packed[:4].hex()}, not LZ4, gzip or xz")


def _lz4(packed: bytes) -> bytes:
    tool = shutil.which("lz4")
    if tool is None:
        raise PayloadUnreadableError("the `lz4` tool is not installed (Debian package lz4)")
    done = subprocess.run(
        [tool, "-d", "-c"], input=packed, capture_output=True, timeout=_LZ4_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise PayloadUnreadableError(f"lz4 ended with {done.returncode}: {done.stderr!r}")
    return done.stdout
