"""The words of a sandboxer say whose move it is."""

from __future__ import annotations

import pytest

from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.kuasar.failures import kuasar_error

READY = "pod annotation 'kuasar.io/warm-fork-ready-protocol-version=1' is required"


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        (
            "no running sandbox found for pod_uid=u1",
            TransientError,
            ErrorCode.PROVIDER_UNREACHABLE,
        ),
        (
            "expected sandbox x to be running, current status created",
            TransientError,
            ErrorCode.GUEST_NOT_READY,
        ),
        (
            "WarmFork ready-check failed before snapshot: timeout",
            TransientError,
            ErrorCode.GUEST_NOT_READY,
        ),
        (READY, UsageError, ErrorCode.REQUEST_INVALID),
        (
            "x annotation is required for pods with several containers",
            UsageError,
            ErrorCode.REQUEST_INVALID,
        ),
        ("container 'a' not found in running sandbox", UsageError, ErrorCode.REQUEST_INVALID),
        (
            "snapshots require container_storage_backend=virtio-blk",
            ConfigError,
            ErrorCode.PROVIDER_UNABLE,
        ),
        ("template pool not configured", ConfigError, ErrorCode.PROVIDER_UNABLE),
        ("continuation store not configured", ConfigError, ErrorCode.PROVIDER_UNABLE),
        ("snapshot directory already exists", UsageError, ErrorCode.TEMPLATE_EXISTS),
        ("pool water level exceeded", TransientError, ErrorCode.NODE_FULL),
        ("cannot evict, max_per_key=5", TransientError, ErrorCode.NODE_FULL),
        ("template t is currently being restored", UsageError, ErrorCode.TEMPLATE_IN_USE),
        ("template t is in use by a running sandbox", UsageError, ErrorCode.TEMPLATE_IN_USE),
        ("template t not found in pool", UsageError, ErrorCode.TEMPLATE_NOT_FOUND),
        ("unknown template action: template-create", ConfigError, ErrorCode.PROVIDER_UNABLE),
        ("unknown action: template-create", ConfigError, ErrorCode.PROVIDER_UNABLE),
        ("disk copy failed: no space", PeerError, ErrorCode.PROVIDER_FAILED),
        ("vm.snapshot: 500", PeerError, ErrorCode.PROVIDER_FAILED),
        ("", PeerError, ErrorCode.PROVIDER_FAILED),
    ],
)
def test_words_stand_for_an_error(said: str, kind: type[SnapStartError], code: ErrorCode) -> None:
    found = kuasar_error("creating 'k'", said)
    assert (type(found), found.code) == (kind, code)
    assert found.message.startswith("creating 'k': ")
    assert repr(said) in found.message


def test_words_without_end_are_cut() -> None:
    assert len(kuasar_error("creating 'k'", "x" * 1_000_000).message) < 1000


def test_a_node_that_is_full_is_asked_again_later_than_one_that_is_starting() -> None:
    full = kuasar_error("w", "pool water level exceeded")
    starting = kuasar_error("w", "no running sandbox found for pod_uid=u1")
    assert isinstance(full, TransientError)
    assert isinstance(starting, TransientError)
    assert full.delay_s > starting.delay_s
