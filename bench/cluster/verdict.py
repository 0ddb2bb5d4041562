"""Decide whether a run of the demonstration showed what it promises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.cluster.result import ClusterResult, Session
from controlplane.sessions.decision import StartReason

# Why a session starts cold between an edit and the set that is built for it.
_WAITING = frozenset(
    {
        StartReason.HASH_MISMATCH,
        StartReason.NO_ACTIVE_SET,
        StartReason.NO_READY_ARTIFACT,
        StartReason.NOT_READY,
    }
)


def find_surprises(result: ClusterResult) -> list[str]:
    """What was not as it should be, each in one sentence."""
    return [
        *_snapshot(result),
        *_all_restored("a session", result.sessions),
        *_all_restored("a Sandbox of the pool", result.refills),
        *_rebuild(result),
        *_outage(result),
        *_identities(result),
        *([f"{result.leaks.count} things are left on this host"] if result.leaks.count else []),
    ]


def _snapshot(result: ClusterResult) -> Iterator[str]:
    if result.snapshot.phase != "Ready":
        yield f"the snapshot ended {result.snapshot.phase}"
    for name in result.snapshot.left:
        yield f"{name} outlived the snapshot"
    for one in result.snapshot.counts:
        if one.target != one.creating + one.ready + one.failed + one.unavailable:
            yield f"the counts after {one.at_s:.0f} s do not sum up: {one}"


def _all_restored(what: str, sessions: Sequence[Session]) -> Iterator[str]:
    for one in sessions:
        if not one.restored:
            yield f"{what}, {one.name}, started cold: {one.reason}"


def _rebuild(result: ClusterResult) -> Iterator[str]:
    rebuild = result.rebuild
    for one in rebuild.meanwhile:
        if one.key == rebuild.old_key:
            yield f"{one.name} was to restore from what the template was before its edit"
    if not any(one.reason in _WAITING for one in rebuild.meanwhile):
        yield "no session started cold for the edit of the template"
    yield from _all_restored("a session after the rebuild", rebuild.after)
    if rebuild.new_key == rebuild.old_key:
        yield "the rebuilt set has the key of the one before"


def _outage(result: ClusterResult) -> Iterator[str]:
    seen = result.outage
    if not seen.machines:
        yield f"no session ran on {seen.node}, so its outage shows nothing"
    if seen.node_ready == "True":
        yield f"the cluster took {seen.node} for ready without its agent"
    if seen.alive < seen.machines:
        yield f"{seen.machines - seen.alive} machines ended with the agentd of {seen.node}"
    if seen.same < seen.machines:
        yield f"{seen.machines - seen.same} sessions of {seen.node} were not carried on"


def _identities(result: ClusterResult) -> Iterator[str]:
    rebuild = result.rebuild
    everyone = [*result.sessions, *result.refills, *rebuild.meanwhile, *rebuild.after]
    for name in ("boot_id", "session_id", "hostname"):
        values = [getattr(one.reply, name) for one in everyone]
        if len(set(values)) < len(values) or not all(values):
            yield f"two sessions have the same {name}, or one has none"
