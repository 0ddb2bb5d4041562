"""Decide each step of the inject protocol, version "1", for any transport.

A `WarmFork` is the instance's one-way path from waiting to started; a `Conversation` is one
connection on it. Bytes and times go in, actions come out; the owner of the connection performs
them in order. Protocol: docs/guest-protocol.md section 4.1.

    READY -connect-> PROBED -PREPARE-> PREPARED -valid-> HOLDING -COMMIT-> COMMITTING -> STARTED
    PROBED -COMMIT-> COMMITTING; PROBED -EOF-> READY; PREPARED -invalid-> CANCELLED
    PROBED, HOLDING -CANCEL-> CANCELLED; HOLDING -EOF, silence-> CANCELLED
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace

from agentd.guest import wire
from agentd.guest.http_auth import KeyRefusedError, load_key
from agentd.guest.prepare import (
    PARSE_ERROR,
    RESOURCE_EXHAUSTED,
    Plan,
    RefusalError,
    parse_prepare,
    parse_wall_clock,
)
from agentd.guest.wire import JsonObject, MessageReader, WireError

PROTOCOL_VERSION = "1"
PROBE_DEADLINE_S = 10.0
HOLD_DEADLINE_S = 30.0

EXIT_CANCELLED = 0
EXIT_FAILED = 1

_CAPABILITIES = wire.encode_message(
    {
        "type": "CAPABILITIES",
        "protocol_version": PROTOCOL_VERSION,
        "supported_features": ["prepare", "commit", "cancel"],
    }
)
_READY = wire.encode_message({"type": "READY"})
_STARTED = wire.encode_message({"type": "STARTED"})


class State(enum.Enum):
    """Where a conversation, or the instance, is."""

    READY = "ready"
    PROBED = "probed"
    PREPARED = "prepared"
    HOLDING = "holding"
    COMMITTING = "committing"
    CANCELLED = "cancelled"
    STARTED = "started"


@dataclass(frozen=True)
class Send:
    """Write these bytes to the connection."""

    data: bytes


@dataclass(frozen=True)
class Hangup:
    """End the connection; the instance goes on waiting."""

    reason: str


@dataclass(frozen=True)
class Apply:
    """Make the plan true, then call `applied`; on any failure call `failed`."""

    plan: Plan


@dataclass(frozen=True)
class Release:
    """STARTED has been sent: close the connection and take the listener away."""


@dataclass(frozen=True)
class Exit:
    """End the runtime with this status: the host discards the instance."""

    status: int
    reason: str


Action = Send | Hangup | Apply | Release | Exit


class WarmFork:
    """The instance's state, shared by its conversations.

    Args: check_key: raises KeyRefusedError for a key that requests cannot be judged by here.
    """

    def __init__(
        self, *, workspace_root: str, check_key: Callable[[str], object] = load_key
    ) -> None:
        self.state = State.READY
        self.workspace_root = workspace_root
        self.check_key = check_key

    def __repr__(self) -> str:
        return f"<WarmFork {self.state.value}>"

    def connect(self, now_ns: int) -> tuple[Conversation, list[Action]]:
        """A host connected at `now_ns` (monotonic)."""
        return Conversation(self, now_ns), [Send(_CAPABILITIES)]

    def claim(self) -> bool:
        """Let one conversation hold the instance; False when another does."""
        if self.state is not State.READY:
            return False
        self.state = State.HOLDING
        return True


class Conversation:
    """One connection of a host."""

    def __init__(self, fork: WarmFork, now_ns: int) -> None:
        self.state = State.PROBED
        self.deadline_ns: int | None = now_ns + int(PROBE_DEADLINE_S * 1e9)
        self._fork = fork
        self._reader = MessageReader()
        self._plan = Plan()
        self._ready_ns = now_ns

    def __repr__(self) -> str:
        return f"<Conversation {self.state.value}>"

    def receive(self, data: bytes, now_ns: int) -> list[Action]:
        """Bytes came."""
        self._reader.feed(data)
        actions: list[Action] = []
        try:
            while self.state in (State.PROBED, State.HOLDING):
                message = self._reader.next()
                if message is None:
                    break
                actions += self._message(message, now_ns)
        except WireError as exc:
            actions += self._broken(str(exc))
        return actions

    def sending(self, now_ns: int) -> None:
        """The bytes of a `Send` leave at `now_ns`. Of READY this is one end of the exchange that
        the clock is set by: what the guest did for PREPARE before it is no part of the way."""
        if self.state is State.HOLDING:
            self._ready_ns = now_ns

    def eof(self) -> list[Action]:
        """The host closed the connection or it failed; a probe ends so, between two messages."""
        if self.state is State.PROBED and self._reader.is_at_boundary:
            return self._hang_up("probe")
        return self._broken("the connection ended")

    def tick(self, now_ns: int) -> list[Action]:
        """Time passed: enforce the read deadline."""
        if self.deadline_ns is None or now_ns < self.deadline_ns:
            return []
        return self._broken("the host was silent for too long")

    def applied(self) -> list[Action]:
        """Every effect of the plan is true, and the gate is open."""
        self._expect(State.COMMITTING)
        self.state = self._fork.state = State.STARTED
        return [Send(_STARTED), Release()]

    def failed(self, reason: str) -> list[Action]:
        """An effect of the plan failed: the instance must not be used."""
        self._expect(State.COMMITTING)
        self.state = self._fork.state = State.CANCELLED
        return [Exit(EXIT_FAILED, reason)]

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise RuntimeError(f"{self!r} is not {state.value}")

    def _message(self, message: JsonObject, now_ns: int) -> list[Action]:
        kind = message.get("type")
        if kind == "PREPARE" and self.state is State.PROBED:
            return self._prepare(message, now_ns)
        if kind == "COMMIT":
            return self._commit(message, now_ns)
        if kind == "CANCEL":
            return self._cancel(message)
        return self._broken(f"message type {str(kind)[:80]!r} while {self.state.value}")

    def _prepare(self, message: JsonObject, now_ns: int) -> list[Action]:
        self.state = State.PREPARED
        try:
            self._plan = parse_prepare(message, workspace_root=self._fork.workspace_root)
            self._check_key(self._plan.auth_key)
            if not self._fork.claim():
                raise RefusalError(RESOURCE_EXHAUSTED, "the instance is already being prepared")
        except RefusalError as refusal:
            return self._reject(refusal)
        self.state = State.HOLDING
        self._ready_ns = now_ns
        self.deadline_ns = now_ns + int(HOLD_DEADLINE_S * 1e9)
        return [Send(_READY)]

    def _check_key(self, key: str) -> None:
        """A session whose key cannot be used must not start: it would serve nobody, or anybody."""
        if not key:
            return
        try:
            self._fork.check_key(key)
        except KeyRefusedError as exc:
            raise RefusalError(PARSE_ERROR, f"context.auth_public_key: {exc}") from exc

    def _reject(self, refusal: RefusalError) -> list[Action]:
        self.state = State.CANCELLED
        self.deadline_ns = None
        reject = {"type": "REJECT", "reason": refusal.reason, "message": refusal.message}
        return [Send(wire.encode_message(reject)), Hangup(f"rejected: {refusal.message}")]

    def _commit(self, message: JsonObject, now_ns: int) -> list[Action]:
        if self.state is State.PROBED and not self._fork.claim():
            return self._broken("COMMIT while another connection holds the instance")
        try:
            wall_ns = parse_wall_clock(message, ready_ns=self._ready_ns, commit_ns=now_ns)
        except RefusalError as refusal:
            self.state = State.HOLDING
            return self._broken(refusal.message)
        self.state = self._fork.state = State.COMMITTING
        self.deadline_ns = None
        plan = replace(self._plan, wall_clock_ns=wall_ns, wall_clock_at_ns=now_ns)
        return [Apply(plan)]

    def _cancel(self, message: JsonObject) -> list[Action]:
        if self.state is State.PROBED and self._fork.state is not State.READY:
            return self._broken("CANCEL while another connection holds the instance")
        self.state = self._fork.state = State.CANCELLED
        self.deadline_ns = None
        return [Exit(EXIT_CANCELLED, f"cancelled: {str(message.get('reason', ''))[:200]}")]

    def _broken(self, reason: str) -> list[Action]:
        if self.state is State.HOLDING:
            self.state = self._fork.state = State.CANCELLED
            self.deadline_ns = None
            return [Exit(EXIT_FAILED, f"{reason}, after READY")]
        if self.state in (State.COMMITTING, State.STARTED):
            return []
        return self._hang_up(reason)

    def _hang_up(self, reason: str) -> list[Action]:
        self.state = State.CANCELLED
        self.deadline_ns = None
        return [Hangup(reason)]
