"""What each release can do, and which states it loads."""

from __future__ import annotations

import msgspec
import pytest

from agentd.errors import ConfigError
from agentd.store.compatibility import classify_compatibility
from agentd.vmm.feature_gate import name_host
from agentd.vmm.firecracker_api import (
    Load,
    MemoryBackend,
    NetworkOverride,
    VsockOverride,
    check_supported,
)
from agentd.vmm.firecracker_versions import FORMATS, OLDEST, Program, Version
from tests.unit.store.samples import MANIFEST, VMM

FILE = MemoryBackend("File", "/memory")


def version(text: str) -> Version:
    parsed = Version.parse(text)
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("1.16.1", Version(1, 16, 1)),
        ("Firecracker v1.16.1", Version(1, 16, 1)),
        ("v10.0.0\n", Version(10, 0, 0)),
        ("1.17.0-dev", Version(1, 17, 0)),
        ("1.16.1+fuzzing", None),
        ("Firecracker", None),
        ("1.16", None),
        ("QEMU emulator version 7.2.11", None),
        ("", None),
    ],
)
def test_a_version_is_read_from_what_the_program_says(text: str, parsed: Version | None) -> None:
    assert Version.parse(text) == parsed


def test_versions_are_ordered_as_numbers() -> None:
    assert version("1.9.0") < version("1.10.0") < version("1.10.1") < version("2.0.0")


@pytest.mark.parametrize(
    ("text", "can"),
    [
        ("1.14.3", False),
        ("1.14.4", True),
        ("1.14.9", True),
        ("1.15.0", False),
        ("1.15.1", True),
        ("1.16.0", True),
        ("1.13.9", False),
        ("2.0.0", True),
    ],
)
def test_a_clock_that_catches_up_was_given_to_two_older_lines(text: str, can: bool) -> None:
    order = Load("/state", FILE, clock_realtime=True)
    if can:
        check_supported(order, version(text))
    else:
        with pytest.raises(ConfigError, match=f"clock_realtime.*Firecracker {text} cannot"):
            check_supported(order, version(text))


@pytest.mark.parametrize(
    ("order", "word", "first"),
    [
        (Load("/s", FILE, network_overrides=(NetworkOverride("e", "t"),)), "network_", "1.12.0"),
        (Load("/s", FILE, vsock_override=VsockOverride("/v")), "vsock_override", "1.16.0"),
    ],
    ids=["network", "vsock"],
)
def test_what_an_older_version_does_not_know_is_not_sent_to_it(
    order: Load, word: str, first: str
) -> None:
    check_supported(order, version(first))
    before = version(first)
    with pytest.raises(ConfigError, match=word):
        check_supported(order, Version(before.major, before.minor - 1, 99))


def test_an_order_that_asks_for_nothing_new_names_nothing_new() -> None:
    check_supported(Load("/state", FILE), OLDEST)
    assert msgspec.json.decode(msgspec.json.encode(Load("/state", FILE))) == {
        "snapshot_path": "/state",
        "mem_backend": {"backend_type": "File", "backend_path": "/memory"},
    }


def test_every_format_is_newer_than_or_the_same_as_the_one_before() -> None:
    formats = [FORMATS[release] for release in sorted(FORMATS)]
    assert formats == sorted(formats)
    assert (OLDEST.major, OLDEST.minor) == min(FORMATS)


@pytest.mark.parametrize(
    ("saved", "here", "fits"),
    [
        ("1.16.1 (snapshot format 10.0)", "1.16.1 (snapshot format 10.0)", True),
        ("1.13.0 (snapshot format 8.0)", "1.14.4 (snapshot format 8.0)", True),
        ("1.14.4 (snapshot format 8.0)", "1.13.0 (snapshot format 8.0)", True),
        ("1.17.0 (snapshot format 11.0)", "1.17.1 (snapshot format 11.2)", True),
        ("1.17.1 (snapshot format 11.2)", "1.17.0 (snapshot format 11.0)", False),
        ("1.15.1 (snapshot format 9.0)", "1.16.1 (snapshot format 10.0)", False),
        ("7.2.11", "7.2.11", True),
        ("7.2.11", "7.2.12", False),
        ("7.2.11", "1.16.1 (snapshot format 10.0)", False),
    ],
)
def test_a_state_is_loaded_by_the_same_format_or_one_with_additions(
    saved: str, here: str, fits: bool
) -> None:
    manifest = msgspec.structs.replace(MANIFEST, vmm=msgspec.structs.replace(VMM, version=saved))
    reasons = classify_compatibility(manifest, msgspec.structs.replace(VMM, version=here))
    expected = [] if fits else [f"monitor version was {saved!r}, is {here!r}"]
    assert reasons == expected


def test_a_program_is_described_by_its_release_and_its_format() -> None:
    program = Program(Version(1, 16, 1), Version(10, 0, 0))
    assert program.description == "1.16.1 (snapshot format 10.0)"


@pytest.mark.parametrize(
    ("release", "named"),
    [
        ("6.18.44", "Xeon 1a2b, Linux 6.18"),
        ("6.1.0-56-cloud-amd64", "Xeon 1a2b, Linux 6.1"),
        ("6.18.45-rc1", "Xeon 1a2b, Linux 6.18"),
        ("strange", "Xeon 1a2b, Linux strange"),
    ],
)
def test_a_host_is_named_by_its_cpu_and_the_line_of_its_kernel(release: str, named: str) -> None:
    assert name_host("Xeon 1a2b", release) == named
