"""Name why a session starts the way it does."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.api import names


class StartReason(enum.StrEnum):
    """Why a session gets a restore intent, or none; values of a metric label, of an annotation."""

    RESTORED_INTENT = "restored_intent"
    NO_SNAPSHOT = "no_snapshot"
    NOT_READY = "not_ready"
    STORE_DISABLED = "store_disabled"
    STORE_ERROR = "store_error"
    STORE_TIMEOUT = "store_timeout"
    NO_ACTIVE_SET = "no_active_set"
    HASH_MISMATCH = "hash_mismatch"
    NO_READY_ARTIFACT = "no_ready_artifact"
    MANIFEST_CORRUPT = "manifest_corrupt"


@dataclass(frozen=True)
class Decision:
    """key: what the session restores from, None = it starts cold. snapshot: which one decided.

    provider_annotations: what the provider's runtime has to be told beside the key. traceparent:
    the span of the decision, empty without traces.
    """

    key: str | None
    reason: StartReason
    snapshot: str = ""
    provider_annotations: Mapping[str, str] = field(default_factory=dict)
    traceparent: str = ""

    @property
    def annotations(self) -> dict[str, str]:
        """All that the session's pod template has to say, the key included."""
        trace = {names.TRACEPARENT: self.traceparent} if self.traceparent else {}
        if self.key is None:
            return trace
        return {names.SNAPSHOT_KEY: self.key, **self.provider_annotations, **trace}


def cold(reason: StartReason, snapshot: str = "") -> Decision:
    """A start without a snapshot."""
    return Decision(None, reason, snapshot)
