"""When a template fits a node."""

from __future__ import annotations

import msgspec
import pytest

from agentd.store.compatibility import classify_compatibility
from agentd.wire.manifest import FORMAT_VERSION
from tests.unit.store.samples import MANIFEST, VMM


def test_the_same_monitor_fits() -> None:
    assert classify_compatibility(MANIFEST, VMM) == []


@pytest.mark.parametrize(
    ("fact", "value", "reason"),
    [
        ("engine", "firecracker", "monitor was 'qemu', is 'firecracker'"),
        ("version", "8.0.0", "monitor version was '7.2.11', is '8.0.0'"),
        ("accel", "kvm", "accelerator was 'tcg', is 'kvm'"),
        ("machine_type", "q35", "machine type was 'microvm', is 'q35'"),
        ("cpu", "host", "guest CPU model was 'max', is 'host'"),
        ("host_cpu", "Other", "host CPU was 'Some CPU 3000 d41d8cd9', is 'Other'"),
        (
            "device_argv",
            ("-device", "virtio-serial-device", "-device", "virtio-net-device"),
            "device argument 3 was 'virtio-rng-device', is 'virtio-net-device'",
        ),
        ("device_argv", VMM.device_argv[:2], "there were 4 device arguments, there are 2"),
        ("device_argv", (), "there were 4 device arguments, there are 0"),
        ("host_tsc_khz", 2_502_504, "host TSC ran at 2500000 kHz, runs at 2502504 kHz"),
        ("host_tsc_khz", 2_497_499, "host TSC ran at 2500000 kHz, runs at 2497499 kHz"),
        ("host_tsc_khz", 0, "host TSC ran at 2500000 kHz, runs at 0 kHz"),
    ],
)
def test_one_different_fact_is_one_reason(fact: str, value: object, reason: str) -> None:
    here = msgspec.structs.replace(VMM, **{fact: value})
    assert classify_compatibility(MANIFEST, here) == [reason]


@pytest.mark.parametrize("khz", [2_500_000, 2_502_500, 2_497_500], ids=["equal", "up", "down"])
def test_a_tsc_within_a_thousandth_fits(khz: int) -> None:
    here = msgspec.structs.replace(VMM, host_tsc_khz=khz)
    assert classify_compatibility(MANIFEST, here) == []


def test_another_format_is_a_reason() -> None:
    other = msgspec.structs.replace(MANIFEST, format_version=FORMAT_VERSION + 1)
    assert classify_compatibility(other, VMM) == [
        f"format is {FORMAT_VERSION + 1}, this program uses {FORMAT_VERSION}"
    ]


def test_every_reason_is_given() -> None:
    here = msgspec.structs.replace(VMM, engine="x", version="x", cpu="x", host_tsc_khz=1)
    assert len(classify_compatibility(MANIFEST, here)) == 4


def test_no_fact_is_left_out() -> None:
    for fact in VMM.__struct_fields__:
        changed = {str: "other", int: 1, tuple: ("other",)}[type(getattr(VMM, fact))]
        here = msgspec.structs.replace(VMM, **{fact: changed})
        assert classify_compatibility(MANIFEST, here), fact
