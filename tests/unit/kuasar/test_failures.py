"""The words of a sandboxer say whose move it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.kuasar.failures import kuasar_error, unreachable

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
        ("no running container found in sandbox x", TransientError, ErrorCode.GUEST_NOT_READY),
        ("invalid WarmFork target annotation: a", UsageError, ErrorCode.REQUEST_INVALID),
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


@pytest.mark.parametrize(
    ("number", "kind", "code", "words"),
    [
        (errno.ENOENT, TransientError, ErrorCode.PROVIDER_UNREACHABLE, "no such socket"),
        (errno.ECONNREFUSED, TransientError, ErrorCode.PROVIDER_UNREACHABLE, "nobody listens"),
        (errno.EACCES, ConfigError, ErrorCode.PERMISSION_DENIED, "run agentd as root"),
        (errno.EPERM, ConfigError, ErrorCode.PERMISSION_DENIED, "run agentd as root"),
        (errno.EAGAIN, TransientError, ErrorCode.PROVIDER_UNREACHABLE, "temporarily"),
        (errno.ENOTSOCK, TransientError, ErrorCode.PROVIDER_UNREACHABLE, "Socket operation"),
    ],
    ids=["absent", "dead", "forbidden", "not permitted", "busy", "no socket"],
)
def test_why_a_socket_is_not_reached_is_told_apart(
    number: int, kind: type[SnapStartError], code: ErrorCode, words: str
) -> None:
    exc = OSError(number, os.strerror(number))
    found = unreachable("listing", Path("/run/a.sock"), exc, setting="kuasar.admin_socket")
    assert (type(found), found.code) == (kind, code)
    assert found.message.startswith("listing: connecting to '/run/a.sock': ")
    assert words in str(found)


def test_an_absent_socket_names_the_setting() -> None:
    found = unreachable("w", Path("/a"), FileNotFoundError(), setting="kuasar.cri_socket")
    assert "kuasar.cri_socket" in found.hint


@pytest.mark.parametrize(
    "said",
    [
        "disk copy failed: template not found",
        "vm.snapshot: entity already exists",
        "vm.pause: socket not found in running sandbox",
    ],
)
def test_what_a_machine_said_within_is_not_taken_for_the_sandboxers_words(said: str) -> None:
    found = kuasar_error("creating 'k'", said)
    assert (type(found), found.code) == (PeerError, ErrorCode.PROVIDER_FAILED)
