"""Which kernel modules load, in which order."""

from __future__ import annotations

import lzma
import struct

import pytest

from agentd.errors import ConfigError, PermanentError
from agentd.image.modules import module_name, plain_module, plan_module_order, read_depends

DEPENDS = {
    "virtio": (),
    "virtio_ring": ("virtio",),
    "virtio_console": ("virtio_ring", "virtio"),
    "kvm": ("irqbypass",),
    "irqbypass": (),
    "kvm_amd": ("kvm", "ccp"),
    "ccp": (),
}


def elf_with_modinfo(modinfo: bytes) -> bytes:
    names = b"\0.modinfo\0.shstrtab\0"
    body = modinfo + names
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 40, 64 + len(body))
    struct.pack_into("<HHH", header, 58, 64, 3, 2)
    section = struct.Struct("<IIQQQQIIQQ")
    table = section.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    table += section.pack(1, 1, 0, 0, 64, len(modinfo), 0, 0, 0, 0)
    table += section.pack(10, 3, 0, 0, 64 + len(modinfo), len(names), 0, 0, 0, 0)
    return bytes(header) + body + table


def test_dependencies_come_first_and_once() -> None:
    order = plan_module_order(["virtio_console", "virtio"], DEPENDS, ())
    assert order == ("virtio", "virtio_ring", "virtio_console")


def test_the_order_of_the_setting_is_kept_where_it_can_be() -> None:
    order = plan_module_order(["ccp", "virtio", "kvm-amd"], DEPENDS, ())
    assert order == ("ccp", "virtio", "irqbypass", "kvm", "kvm_amd")


def test_a_module_inside_the_kernel_is_left_out() -> None:
    assert plan_module_order(["kvm_amd"], DEPENDS, {"kvm", "ccp"}) == ("kvm_amd",)


def test_a_cycle_ends() -> None:
    assert plan_module_order(["a"], {"a": ("b",), "b": ("a",)}, ()) == ("b", "a")


def test_an_unknown_module_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'nosuch': this kernel does not have it"):
        plan_module_order(["nosuch"], DEPENDS, ())


def test_an_unknown_dependency_names_who_needs_it() -> None:
    with pytest.raises(ConfigError, match="'gone', needed by 'a'"):
        plan_module_order(["a"], {"a": ("gone",)}, ())


def test_depends_is_read_from_the_elf_section() -> None:
    module = elf_with_modinfo(b"license=GPL\0depends=virtio_ring,crc-t10dif\0name=x\0")
    assert read_depends(module) == ("virtio_ring", "crc_t10dif")


def test_an_empty_depends_means_none() -> None:
    assert read_depends(elf_with_modinfo(b"depends=\0")) == ()


@pytest.mark.parametrize("cut", [0, 3, 60, 100], ids=str)
def test_a_damaged_module_is_refused(cut: int) -> None:
    with pytest.raises(PermanentError, match="modinfo"):
        read_depends(elf_with_modinfo(b"depends=\0")[:cut])


def test_a_compressed_module_is_stored_plain() -> None:
    assert plain_module("a/x.ko.xz", lzma.compress(b"elf")) == ("a/x.ko", b"elf")


def test_names_count_dashes_as_underscores() -> None:
    assert module_name("kernel/arch/x86/kvm/kvm-amd.ko.xz") == "kvm_amd"
    assert module_name("modules.builtin") is None
