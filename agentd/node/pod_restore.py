"""Decide whether a Pod starts as a fork."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentd.errors import ErrorCode, SnapStartError
from agentd.providers.driver import LocalArtifact
from controlplane.api.types import SnapshotMode

# What a cold start meets as well: the Pod waits instead of falling back.
_NODE_BUSY: Final = frozenset({ErrorCode.NODE_FULL, ErrorCode.NO_MEMORY, ErrorCode.SHUTTING_DOWN})


@dataclass(frozen=True)
class Fork:
    """Start as a fork of an artifact."""

    key: str


@dataclass(frozen=True)
class Cold:
    """Boot. reason: why a restore that was asked for is none; empty if none was asked for."""

    reason: str = ""
    message: str = ""


def choose_start(
    key: str, artifact: LocalArtifact | None, *, namespace: str, cluster: str
) -> Fork | Cold:
    """How to start a Pod with that restore intent, an empty key being none.

    The key alone proves nothing, because whoever may create Pods may write one: the artifact has to
    belong to a snapshot of the Pod's own namespace in this very cluster.
    """
    if not key:
        return Cold()
    if artifact is None:
        return Cold("artifact_missing", f"there is no artifact {key!r} on this node")
    owner = artifact.owner
    if owner is None and not artifact.is_ready:  # what is damaged cannot say whose it is
        return Cold("artifact_unusable", f"artifact {key!r} does not verify")
    if owner is None or owner.cluster != cluster or owner.namespace != namespace:
        return Cold("wrong_namespace", f"artifact {key!r} is not of namespace {namespace!r}")
    if artifact.mode is not SnapshotMode.FORK:
        return Cold("wrong_mode", f"artifact {key!r} is not for forks")
    if not artifact.is_ready:
        return Cold("artifact_unusable", f"artifact {key!r} does not verify")
    return Fork(key)


def choose_fallback(key: str, error: SnapStartError) -> Cold | None:
    """What to do once a fork has failed; None if a cold start would fail alike."""
    if error.code in _NODE_BUSY:
        return None
    return Cold("restore_failed", f"forking artifact {key!r}: {error}")
