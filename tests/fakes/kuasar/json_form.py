"""A stand-in for a sandboxer whose admin socket has `template-create`: newline JSON.

Marks as in `sandboxer`. Deviations: `pool-refill`, `continuation-*` and `sandbox-run` are refused
as unknown verbs; `pool-status` has the members that somebody reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .sandboxer import CONTINUATION, WARM_FORK, RefusedError, Sandbox, Sandboxer, Template

Members = dict[str, Any]


@dataclass
class Faults:
    """What goes wrong, one entry for each call to come; None for a call that goes well.

    "hang": no reply, ever. "drop": it is done, the connection ends without a reply. "lose": it is
    not even done. "truncate": half of the reply. "twice": the reply, and once more. Bytes: they are
    the reply.
    """

    calls: deque[str | bytes | None] = field(default_factory=deque)

    def next(self) -> str | bytes | None:
        """Of this call."""
        return self.calls.popleft() if self.calls else None


class JsonForm:
    """Serves one `Sandboxer`."""

    def __init__(self, sandboxer: Sandboxer) -> None:
        self.sandboxer = sandboxer
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self._hanging: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        """Unlink what is there, bind, allow its owner alone. (R)"""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        server = await asyncio.start_unix_server(self._serve, path)
        os.chmod(path, 0o600)
        try:
            yield
        finally:
            server.close()
            for task in self._hanging:
                task.cancel()
            await asyncio.gather(*self._hanging, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._hanging.add(task)
        try:
            # One line, or what there is before the end. (R)
            line = await reader.readline()
            for part in await self._answers(line):
                writer.write(part)
            with contextlib.suppress(OSError):
                await writer.drain()
        except asyncio.CancelledError:
            return
        finally:
            self._hanging.discard(task)
            writer.close()

    async def _answers(self, line: bytes) -> list[bytes]:
        try:
            request = json.loads(line)
        except ValueError:
            return []  # malformed: closed without a reply (R)
        if not isinstance(request, dict) or not isinstance(request.get("action"), str):
            return []
        fault = self.faults.next()
        if fault == "lose":
            return []
        reply = json.dumps(self._reply(request)).encode() + b"\n"
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "drop":
            return []
        if fault == "truncate":
            return [reply[: len(reply) // 2]]
        if fault == "twice":
            return [reply, reply]
        return [fault] if isinstance(fault, bytes) else [reply]

    def _reply(self, request: Members) -> Members:
        action = request["action"]
        self.calls[action] += 1
        try:
            return {"ok": True, **self._dispatch(action, request)}
        except RefusedError as exc:
            return {"ok": False, "error": str(exc)}

    def _dispatch(self, action: str, request: Members) -> Members:
        known: dict[str, Callable[[Members], Members]] = {
            "template-create": self._create,
            "template-list": self._list,
            "template-get": self._get,
            "pool-gc": self._collect,
            "pool-status": self._status,
            "sandbox-list": self._sandboxes,
        }
        if action in known:
            return known[action](request)
        category = action.partition("-")[0]
        if category in {one.partition("-")[0] for one in known}:
            raise RefusedError(f"unknown {category} action: {action}")
        raise RefusedError(f"unknown action: {action}")

    def _create(self, request: Members) -> Members:
        """A template_id that is given is ignored; the key of a continuation as well. (R)"""
        if "sandbox_id" not in request:
            raise RefusedError("missing sandbox_id")
        sandbox_id = self.sandboxer.require_id("sandbox_id", request["sandbox_id"])
        kind = request.get("snapshot_type", WARM_FORK)
        if kind == CONTINUATION:
            raise RefusedError("continuation store not configured")
        if kind != WARM_FORK:
            raise RefusedError(f"snapshot_type {kind!r} cannot be created from a sandbox")
        if "key" not in request:
            raise RefusedError("missing key")
        key = self.sandboxer.require_key(request["key"])
        template = self.sandboxer.create_fork(self._sandbox(sandbox_id), key)
        return {"template_id": template.template_id, "key": key, "snapshot_type": WARM_FORK}

    def _sandbox(self, sandbox_id: str) -> Sandbox:
        for sandbox in self.sandboxer.known():
            if sandbox.id == sandbox_id:
                return sandbox
        raise RefusedError(f"sandbox {sandbox_id} not found")  # the words are inferred (I)

    def _list(self, _request: Members) -> Members:
        """Sorted by id. (R)"""
        found = sorted(self.sandboxer.templates.values(), key=lambda one: one.template_id)
        return {"templates": [_view(one) for one in found]}

    def _get(self, request: Members) -> Members:
        template_id = self.sandboxer.require_id("template_id", request.get("template_id"))
        template = self.sandboxer.templates.get(template_id)
        if template is None:
            raise RefusedError(f"template {template_id} not found")
        return {"template": _view(template)}

    def _collect(self, request: Members) -> Members:
        """Kind is a mandatory cross-check; the id's rule is not applied. (R)"""
        if "kind" not in request:
            raise RefusedError("missing kind")
        template = self.sandboxer.templates.get(request.get("template_id", ""))
        if template is None:
            raise RefusedError(f"template {request.get('template_id')} not found in pool")
        if template.snapshot_type != request["kind"]:
            raise RefusedError(
                f"template {template.template_id} has kind {template.snapshot_type}, "
                f"not {request['kind']}"
            )
        self.sandboxer.remove(template)
        remaining = len(self.sandboxer.templates)
        return {"kind": request["kind"], "removed": 1, "remaining": remaining}

    def _status(self, _request: Members) -> Members:
        if not self.sandboxer.config.has_pool:
            raise RefusedError("template pool not configured")
        templates = self.sandboxer.templates.values()
        depth = Counter(one.key for one in templates)
        used = [one for one in templates if one.uses]
        return {
            "total": len(templates),
            "keys": len(depth),
            "by_key": [{"key": key, "depth": number} for key, number in depth.items()],
            "active_shared_refs": [
                {"template_id": one.template_id, "refs": one.uses} for one in used
            ],
        }

    def _sandboxes(self, _request: Members) -> Members:
        return {
            "sandboxes": [
                {
                    "id": one.id,
                    "status": one.status,
                    "base_dir": f"/run/kuasar-vmm/{one.id}",
                    "template_id": one.template_id or None,
                    "template_snapshot_type": WARM_FORK if one.template_id else None,
                }
                for one in self.sandboxer.known()
            ]
        }


def _view(one: Template) -> Members:
    return {
        "template_id": one.template_id,
        "snapshot_type": one.snapshot_type,
        "key": one.key,
        "created_at_secs": one.created_at_secs,
        "snapshot_dir": f"/var/lib/kuasar/pool/warmfork/{one.template_id}/snapshot",
    }
