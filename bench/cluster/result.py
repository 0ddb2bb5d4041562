"""Define the result of one run of the demonstration."""

from __future__ import annotations

import msgspec

from agentd.wire.demo import Machine
from bench.cluster.leaks import Leaks

VERSION = 1


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a session's own code answered."""

    boot_id: str
    session_id: str
    hostname: str


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One session. Milliseconds since its Sandbox was asked for.

    ready_ms: until agent-sandbox called it Ready. reply_ms: until its code's first reply was here.
    reason: why it was restored, or not. key: of its restore intent, empty if it was given none.
    """

    name: str
    node: str
    restored: bool
    reason: str
    key: str
    ready_ms: float
    reply_ms: float
    reply: Reply


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot's status at a moment; at_s: since the demonstration began."""

    at_s: float
    phase: str
    target: int
    creating: int
    ready: int
    failed: int
    unavailable: int
    rebuilding: bool


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The snapshot in the end, its counts over time.

    ready_s: since it was applied. left: artifacts and records that outlived its deletion.
    """

    phase: str
    key: str
    ready_s: float
    counts: tuple[Counts, ...]
    left: tuple[str, ...] = ()


class Rebuild(msgspec.Struct, frozen=True, kw_only=True):
    """What an edit of the template did.

    meanwhile: sessions started before the rebuilt set was active. after: those started then.
    rebuilt_s: from the edit until then.
    """

    old_key: str
    new_key: str
    rebuilt_s: float
    meanwhile: tuple[Session, ...]
    after: tuple[Session, ...]


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """What the death of one node's agentd did.

    node_ready: the Node's own condition when the counts had changed. machines: of sessions there;
    alive: those that ran on without it; answered: those that answered by their own channel while it
    was gone. noticed_s, recovered_s: until the snapshot's counts said so. same: sessions that went
    on in the same machine under the next agentd, with what they had written. others: sessions of
    the other node that answered meanwhile.
    """

    node: str
    node_ready: str
    machines: int
    alive: int
    answered: int
    noticed_s: float
    recovered_s: float
    same: int
    others: int


class ClusterResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was seen; nothing in here is averaged."""

    version: int = VERSION
    kubernetes: str
    sandbox_version: str
    machine: Machine
    snapshot: Snapshot
    sessions: tuple[Session, ...]
    refills: tuple[Session, ...]
    rebuild: Rebuild
    outage: Outage
    leaks: Leaks
