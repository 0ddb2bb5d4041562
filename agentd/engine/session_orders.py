"""Turn what somebody wishes of a session into what is started and what is kept of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agentd.engine.journal_records import SessionFacts
from agentd.engine.plans import choose_duration
from agentd.engine.starter import ImageSource, Order
from agentd.settings import Deadlines, Lifetime
from agentd.wire.api import CreateSession, SessionMode

_MAX_DEADLINE_S: Final = 600.0
# When a session ends that nothing but its owner ends: seconds, and seconds since the epoch.
_NEVER_S: Final = 1e11


@dataclass(frozen=True)
class OwnSession:
    """A session that a part of this program starts; it never expires.

    id: the caller's choice, as a machine's id. source: the name of a template to fork, or what to
    boot. deadline_s: seconds until its guest has its identity. labels: kept in the journal.
    auth_key: as of an `Order`.
    """

    id: str
    source: str | ImageSource
    deadline_s: float
    hostname: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    auth_key: str = ""


def new_session_id() -> str:
    """An id that nobody can guess."""
    return f"s-{secrets.token_hex(8)}"


def make_order(session_id: str, request: CreateSession, deadlines: Deadlines) -> Order:
    """What a client's request starts. Raises: UsageError for a deadline out of range."""
    is_cold = request.mode is SessionMode.COLD
    default_s = deadlines.cold_s if is_cold else deadlines.fork_s
    return Order(
        session_id,
        choose_duration(request.deadline_s, default_s, _MAX_DEADLINE_S, "deadline_s"),
        request.mode,
        env=request.env,
        files=request.files,
        metadata=request.metadata,
    )


def make_facts(request: CreateSession, life: Lifetime, now_s: float) -> SessionFacts:
    """What is kept of a client's session. Raises: UsageError for a duration out of range."""
    ttl_s = choose_duration(request.ttl_s, life.default_ttl_s, life.max_ttl_s, "ttl_s")
    idle_s = choose_duration(
        request.idle_timeout_s,
        life.default_idle_timeout_s,
        life.max_idle_timeout_s,
        "idle_timeout_s",
    )
    return SessionFacts(
        template=request.template,
        mode=request.mode,
        created_at_s=now_s,
        expires_at_s=now_s + ttl_s,
        idle_timeout_s=idle_s,
        hostname="",
        metadata=dict(request.metadata),
    )


def make_own_order(wish: OwnSession) -> Order:
    """What a session of this program's own starts."""
    return Order(
        wish.id,
        wish.deadline_s,
        _mode(wish),
        env=wish.env,
        metadata=wish.metadata,
        hostname=wish.hostname,
        auth_key=wish.auth_key,
    )


def make_own_facts(wish: OwnSession, now_s: float) -> SessionFacts:
    """What is kept of a session of this program's own."""
    source = wish.source
    return SessionFacts(
        template=source if isinstance(source, str) else "",
        mode=_mode(wish),
        created_at_s=now_s,
        expires_at_s=_NEVER_S,
        idle_timeout_s=_NEVER_S,
        hostname="",
        metadata=dict(wish.metadata),
        memory_mib=0 if isinstance(source, str) else source.machine.memory_mib,
        labels=dict(wish.labels),
    )


def _mode(wish: OwnSession) -> SessionMode:
    return SessionMode.FORK if isinstance(wish.source, str) else SessionMode.COLD
