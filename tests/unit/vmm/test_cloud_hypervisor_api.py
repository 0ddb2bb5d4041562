"""What refusals of Cloud Hypervisor are translated to."""

from __future__ import annotations

import json

import pytest

from agentd.errors import ErrorCode, PeerError, PermanentError, SnapStartError, TransientError
from agentd.vmm.cloud_hypervisor_api import lacks_mode, parse_chain, refusal

# Each as one of v51.0, v53.0 said it.
CPU = [
    "Error from API",
    "The VM could not be restored",
    "Cannot restore VM",
    "Failed to receive migratable component snapshot",
    "Error checking cpu feature compatibility",
    "Error checking CPUID compatibility",
]
MEMORY = ["Error from API", "The VM could not boot", "Cannot allocate memory (os error 12)"]
DISK = ["Error from API", "Error writing dense memory", "No space left on device (os error 28)"]
LIMIT = ["Error from API", "Error writing dense memory", "File too large (os error 27)"]
PAUSED = ["Error from API", "The VM could not be paused", "VM is not running"]


@pytest.mark.parametrize(
    ("chain", "kind", "code"),
    [
        (CPU, PermanentError, ErrorCode.TEMPLATE_INCOMPATIBLE),
        (MEMORY, TransientError, ErrorCode.NO_MEMORY),
        (DISK, TransientError, ErrorCode.DISK_FULL),
        (LIMIT, TransientError, ErrorCode.DISK_FULL),
        (PAUSED, PeerError, ErrorCode.VMM_FAILED),
    ],
)
@pytest.mark.parametrize("status", [400, 404, 409, 500])
def test_what_came_back_decides_and_the_code_does_not(
    chain: list[str], kind: type[SnapStartError], code: ErrorCode, status: int
) -> None:
    error = refusal("vm.restore", status, chain)
    assert type(error) is kind
    assert error.code is code
    assert f"vm.restore ({status})" in error.message
    assert all(link in error.message for link in chain)


def test_a_chain_is_read_without_the_stack_that_some_links_bring() -> None:
    body = json.dumps(["Error from API", "no state (os error 22)\n\nStack backtrace:\n 0: x"])
    assert parse_chain(body.encode()) == ["Error from API", "no state (os error 22)"]


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":1}', b"\xff\xfe", b"[1]"])
def test_what_is_no_chain_is_shown_as_it_came(body: bytes) -> None:
    (only,) = parse_chain(body)
    assert only == body.decode(errors="replace")


def test_a_very_long_reason_is_cut() -> None:
    assert len(parse_chain(json.dumps(["x" * 10**6]).encode())[0]) == 1000


def test_a_mode_that_is_not_known_is_told_from_other_refusals() -> None:
    unknown = ["Failed to deserialize JSON", "unknown variant `CopyOnWrite`, expected `Copy`"]
    assert lacks_mode(json.dumps(unknown).encode())
    assert not lacks_mode(json.dumps(CPU).encode())
    assert not lacks_mode(b"")
