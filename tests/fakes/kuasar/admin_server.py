"""What the admin sockets of both forms have in common: framing, and what they tell.

Marks as in `sandboxer`. Deviations: `pool-refill` is refused as an unknown verb; `pool-status` has
the members that somebody reads, and those of its counters that can be told.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from .faults import Abort, Delay, Faults
from .listener import listening
from .sandboxer import ENVIRONMENT, WARM_FORK, RefusedError, Sandboxer, Template

Members = dict[str, Any]
Verb = Callable[[Members], Awaitable[Members]]


class AdminServer:
    """Serves one `Sandboxer`. calls: how often each action was asked for and dispatched."""

    def __init__(self, sandboxer: Sandboxer) -> None:
        self.sandboxer = sandboxer
        self.faults = Faults()
        self.calls: Counter[str] = Counter()

    def verbs(self) -> Mapping[str, Verb]:
        """What this form answers."""
        return {
            "template-list": self._list,
            "template-get": self._get,
            "pool-status": self._status,
            "pool-gc": self._collect,
        }

    @asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        """Unlink what is there, bind, allow its owner alone; the socket's file stays. (R)

        What is under way when this ends is broken off.
        """
        async with listening(path, self._serve, mode=0o600):
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # One line, or what there is before the end. (R)
        line = await reader.readline()
        for part in await self._answers(line):
            writer.write(part)
        await writer.drain()

    async def _answers(self, line: bytes) -> list[bytes]:
        """A client that leaves does not end the work. (R)"""
        try:
            request = _parsed(line)
        except ValueError:
            return []  # malformed: closed without a reply (M)
        fault = self.faults.next()
        if fault == "lose":
            return []
        if isinstance(fault, Abort):
            return [_line({"ok": False, "error": fault.text})]
        reply = _line(await self._reply(request))
        if isinstance(fault, Delay):
            await asyncio.sleep(fault.seconds)
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "drop":
            return []
        if fault == "truncate":
            return [reply[: len(reply) // 2]]
        if fault == "twice":
            return [reply, reply]
        return [fault] if isinstance(fault, bytes) else [reply]

    async def _reply(self, request: Members) -> Members:
        action = request.get("action")
        if not isinstance(action, str):
            action = ""  # as if there were none (M)
        self.calls[action] += 1
        try:
            return {"ok": True, **await self._dispatch(action, request)}
        except RefusedError as exc:
            return {"ok": False, "error": str(exc)}

    async def _dispatch(self, action: str, request: Members) -> Members:
        """Split at the first dash, if any: the category has its own words for a verb. (M)"""
        known = self.verbs()
        if action in known:
            return await known[action](request)
        category, _, verb = action.partition("-")
        if category in {one.partition("-")[0] for one in known}:
            raise RefusedError(f"unknown {category} action: {category}-{verb}")
        raise RefusedError(f"unknown action: {action}")

    # -- what both tell -------------------------------------------------------------------

    async def _list(self, _request: Members) -> Members:
        """Sorted by id. (R)"""
        found = sorted(self.sandboxer.templates.values(), key=lambda one: one.template_id)
        return {"templates": [_view(one) for one in found]}

    async def _get(self, request: Members) -> Members:
        template_id = self.sandboxer.require_id("template_id", text_of(request, "template_id"))
        template = self.sandboxer.templates.get(template_id)
        if template is None:
            raise RefusedError(f"template {template_id} not found")
        return {"template": _view(template)}

    async def _status(self, _request: Members) -> Members:
        if not self.sandboxer.config.has_pool:
            raise RefusedError("template pool not configured")
        templates = self.sandboxer.templates.values()
        depth = Counter(one.key for one in templates)
        kinds = Counter(one.snapshot_type for one in templates)
        # Uses are counted anew while it recovers. (R)
        used = [one for one in templates if one.uses and self.sandboxer.is_recovered]
        restoring = [one for one in templates if one.restores]
        blocked = [(one, "restore_in_flight") for one in restoring]
        blocked += [(one, "shared_refcount") for one in used if not one.restores]
        return {
            "total": len(templates),
            "keys": len(depth),
            "by_type": [{"type": k, "count": kinds[k]} for k in (ENVIRONMENT, WARM_FORK)],
            "by_key": [{"key": key, "depth": number} for key, number in depth.items()],
            "continuation": 0,
            "in_flight": 0,
            "active_shared_refs": [
                {"template_id": one.template_id, "refs": one.uses} for one in used
            ],
            "in_flight_restores": [
                {"template_id": one.template_id, "count": one.restores} for one in restoring
            ],
            "gc_blocked": [
                {"template_id": one.template_id, "reason": reason} for one, reason in blocked
            ],
            "templates_created": 0,
            "pool_hits": 0,
            "pool_misses": 0,
            "hit_rate": 0.0,
            "avg_restore_ms": 0.0,
        }

    async def _collect(self, request: Members) -> Members:
        """Remove one template by id; which kinds it may be is the form's."""
        raise NotImplementedError

    def in_pool(self, request: Members, kind: str) -> Template:
        """One by its id, to which the ids' rule is not applied; kind: what it must be. (M)"""
        template_id = required(request, "template_id")
        template = self.sandboxer.templates.get(template_id)
        if template is None:
            raise RefusedError(f"template {template_id} not found in pool")
        if template.snapshot_type != kind:
            found = KIND_WORDS[template.snapshot_type]
            raise RefusedError(f"template {template_id} has kind {found}, not {KIND_WORDS[kind]}")
        return template


KIND_WORDS = {ENVIRONMENT: "Environment", WARM_FORK: "WarmFork"}


def text_of(request: Members, member: str, otherwise: str = "") -> str:
    """A member; one that is no text counts as missing. Raises: RefusedError. (M)"""
    text = request.get(member)
    if not isinstance(text, str):
        raise RefusedError(f"missing {member}{otherwise}")
    return text


def required(request: Members, member: str) -> str:
    """As `text_of`, in the words of the pool's verbs. (M)"""
    text = request.get(member)
    if not isinstance(text, str):
        raise RefusedError(f"missing required field '{member}'")
    return text


def _parsed(line: bytes) -> Members:
    """No NaN, no half characters, at most 127 deep; anything but an object is an empty one. (M)"""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError from exc
    if _depth(value) > 127:
        raise ValueError
    return value if isinstance(value, dict) else {}


def _depth(value: object) -> int:
    inner = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _line(reply: Members) -> bytes:
    return json.dumps(reply).encode() + b"\n"


def _view(one: Template) -> Members:
    folder = one.snapshot_type.replace("_", "")
    return {
        "template_id": one.template_id,
        "snapshot_type": one.snapshot_type,
        "key": one.key,
        "created_at_secs": one.created_at_secs,
        "snapshot_dir": f"/var/lib/kuasar/pool/{folder}/{one.template_id}/snapshot",
    }
