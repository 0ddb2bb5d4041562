"""Judge from a sandboxer's own list whether a Pod came from its snapshot.

Nothing in a Pod's status says so: with `fallback_to_fresh_boot` a sandboxer whose restore fails
boots the Pod cold and tells nobody.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentd.errors import ErrorCode, SnapStartError
from agentd.kuasar.client import KuasarSandbox, KuasarTemplate
from controlplane.api import names
from controlplane.api.types import SnapshotMode

# So long an answer is sought, seconds from the first question: longer than a sandboxer's restart.
GIVE_UP_S: Final = 180.0
_FIRST_RETRY_S: Final = 3.0
_LAST_RETRY_S: Final = 30.0
_RUNNING: Final = ("running", "paused")


class Result(enum.StrEnum):
    """How a Pod that was to be restored started; the metric's label."""

    RESTORE = "restore"
    COLD_START = "cold_start"
    UNKNOWN = "unknown"


class Doubt(enum.StrEnum):
    """Why it is not known."""

    SANDBOXER_UNREACHABLE = "sandboxer_unreachable"
    SANDBOXER_FAILED = "sandboxer_failed"
    NOT_LISTED = "not_listed"
    NOT_RUNNING = "not_running"
    FORM_CANNOT_TELL = "form_cannot_tell"
    AMBIGUOUS = "ambiguous"


class ColdReason(enum.StrEnum):
    """Why it is cold, as far as the store of snapshots tells afterwards."""

    ARTIFACT_MISSING = "artifact_missing"
    NOT_RESTORED = "not_restored"
    CAUSE_UNKNOWN = "cause_unknown"


@dataclass(frozen=True)
class Verdict:
    """reason: empty for a restore. message: for people, likewise."""

    result: Result
    reason: str = ""
    message: str = ""

    @property
    def started_from(self) -> str:
        """The annotation's value."""
        return _STARTED_FROM[self.result]


_STARTED_FROM: Final = {
    Result.RESTORE: names.FROM_SNAPSHOT,
    Result.COLD_START: names.FROM_IMAGE,
    Result.UNKNOWN: "unknown",
}


@dataclass(frozen=True)
class Listing:
    """Sandboxes by the UIDs of their Pods. has_strangers: some run whose Pods were not told."""

    by_pod: Mapping[str, Sequence[KuasarSandbox]]
    has_strangers: bool = False


def index(sandboxes: Iterable[KuasarSandbox]) -> Listing:
    """A listing that finds one Pod's sandboxes at once."""
    found: defaultdict[str, list[KuasarSandbox]] = defaultdict(list)
    for one in sandboxes:
        found[one.pod_uid].append(one)
    strangers = found.pop("", [])
    return Listing(dict(found), any(one.status in _RUNNING for one in strangers))


def judge(uid: str, listing: Listing) -> Verdict:
    """How the Pod of that UID started.

    A sandbox that does not run proves nothing: one that is being made may yet be restored, one that
    stopped has a successor.
    """
    of_pod = listing.by_pod.get(uid, ())
    if not of_pod:
        return _doubt(Doubt.FORM_CANNOT_TELL if listing.has_strangers else Doubt.NOT_LISTED)
    origins = {one.is_restored for one in of_pod if one.status in _RUNNING}
    if not origins:
        return _doubt(Doubt.NOT_RUNNING)
    if len(origins) > 1:
        return _doubt(Doubt.AMBIGUOUS)
    return Verdict(Result.RESTORE if origins.pop() else Result.COLD_START)


_DOUBTS: Final = {
    Doubt.NOT_LISTED: "the sandboxer lists no sandbox of it",
    Doubt.NOT_RUNNING: "the sandboxer lists none of its sandboxes as running",
    Doubt.FORM_CANNOT_TELL: "the sandboxer lists sandboxes, but not whose they are",
    Doubt.AMBIGUOUS: "the sandboxer lists two running sandboxes of it, one of them restored",
}


def _doubt(doubt: Doubt) -> Verdict:
    return Verdict(Result.UNKNOWN, doubt, _DOUBTS[doubt])


def judge_failure(error: SnapStartError) -> Verdict:
    """What it means that the sandboxes could not be listed."""
    is_away = error.code in (ErrorCode.PROVIDER_UNREACHABLE, ErrorCode.DEADLINE_EXCEEDED)
    doubt = Doubt.SANDBOXER_UNREACHABLE if is_away else Doubt.SANDBOXER_FAILED
    return Verdict(Result.UNKNOWN, doubt, str(error))


def is_listed(templates: Iterable[KuasarTemplate]) -> bool:
    """There is something that a session of the key can be forked from."""
    return any(one.mode is SnapshotMode.FORK for one in templates)


def explain_cold(key: str, templates: Iterable[KuasarTemplate] | SnapStartError) -> Verdict:
    """Why a Pod is cold. templates: those of its key, or why they could not be listed."""
    if isinstance(templates, SnapStartError):
        why = f"whether its snapshot is there could not be told: {templates}"
        return Verdict(Result.COLD_START, ColdReason.CAUSE_UNKNOWN, why)
    if is_listed(templates):
        why = (
            f"the sandboxer has snapshot {key!r} now but did not restore it: look at its log; are "
            "enable_warmfork_restore and, for the gRPC form, its annotation_resolvers set?"
        )
        return Verdict(Result.COLD_START, ColdReason.NOT_RESTORED, why)
    why = (
        f"the sandboxer has no snapshot {key!r}: it was not made on this node, was dropped, or was "
        "used up, as lease_mode exclusive does"
    )
    return Verdict(Result.COLD_START, ColdReason.ARTIFACT_MISSING, why)


def next_question_s(asked_for_s: float, times: int) -> float | None:
    """When to ask again about a Pod in doubt, seconds; None: it stays unknown.

    asked_for_s: since the first question. times: how often it was asked, at least once.
    """
    if asked_for_s >= GIVE_UP_S:
        return None
    return min(_FIRST_RETRY_S * 2.0 ** min(times - 1, 10), _LAST_RETRY_S)
