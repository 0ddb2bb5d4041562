"""Which kernel modules an image needs, in the order in which they load.

Dependencies come from each module's own `.modinfo` section, as depmod reads them; Debian's packages
ship no modules.dep.
"""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

from agentd.errors import ConfigError, ErrorCode, PermanentError

_SECTION_HEADER: Final = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr, elf(5)
_SUFFIXES: Final = (".ko", ".ko.xz", ".ko.gz")


def module_name(path: str) -> str | None:
    """The module's name in a path of a module file, None for other files; `-` counts as `_`."""
    name = PurePosixPath(path).name
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return _normal(name[: -len(suffix)])
    return None


def plain_module(path: str, content: bytes) -> tuple[str, bytes]:
    """Path and content of a module without compression, which finit_module(2) takes everywhere."""
    if path.endswith(".xz"):
        return path[:-3], lzma.decompress(content)
    if path.endswith(".gz"):
        return path[:-3], gzip.decompress(content)
    return path, content


def read_depends(module: bytes) -> tuple[str, ...]:
    """The names of the modules that a module needs.

    Raises: PermanentError if it is not a 64-bit little-endian ELF file with a .modinfo section.
    """
    try:
        fields = _section(module, b".modinfo").split(b"\0")
    except (struct.error, KeyError, ValueError) as exc:
        raise PermanentError(
            ErrorCode.IMAGE_INVALID, f"reading a kernel module's .modinfo: {exc!r}"
        ) from exc
    for field in fields:
        if field.startswith(b"depends="):
            names = field.removeprefix(b"depends=").decode()
            return tuple(_normal(name) for name in names.split(",") if name)
    return ()


def plan_module_order(
    wanted: Sequence[str], depends: Mapping[str, Sequence[str]], builtin: Collection[str]
) -> tuple[str, ...]:
    """Put wanted modules and what they need in load order, dependencies first.

    Args: depends: each module file's needs. builtin: modules in the kernel itself, left out.
    Raises: ConfigError for a module that the kernel does not have.
    """
    order: dict[str, None] = {}
    for name in wanted:
        _append(_normal(name), depends, {_normal(item) for item in builtin}, order, ())
    return tuple(order)


def _append(
    name: str,
    depends: Mapping[str, Sequence[str]],
    builtin: Collection[str],
    order: dict[str, None],
    above: tuple[str, ...],
) -> None:
    if name in order or name in builtin or name in above:
        return
    if name not in depends:
        needed = f", needed by {above[-1]!r}" if above else ""
        raise ConfigError(
            ErrorCode.IMAGE_INVALID,
            f"looking for the kernel module {name!r}{needed}: this kernel does not have it",
            hint="correct the list of kernel modules, or choose another kernel package",
        )
    for below in depends[name]:
        _append(_normal(below), depends, builtin, order, (*above, name))
    order[name] = None


def _normal(name: str) -> str:
    return name.replace("-", "_")


def _section(elf: bytes, wanted: bytes) -> bytes:
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names_index = struct.unpack_from("<HHH", elf, 58)
    headers = [_SECTION_HEADER.unpack_from(elf, table + i * size) for i in range(count)]
    names = headers[names_index][4]
    for header in headers:
        start = names + header[0]
        if elf[start : start + len(wanted) + 1] == wanted + b"\0":
            return elf[header[4] : header[4] + header[5]]
    raise KeyError(wanted.decode())
