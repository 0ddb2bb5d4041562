"""A stand-in for a sandboxer whose admin socket has `template-create`: newline JSON.

Marks as in `sandboxer`. Deviations, beside those of `admin_server`: `continuation-*`,
`sandbox-run`, `sandbox-get` and `sandbox-destroy` are refused as unknown verbs.
"""

from __future__ import annotations

from collections.abc import Mapping

from .admin_server import KIND_WORDS, AdminServer, Members, Verb, required, text_of
from .faults import Faults
from .sandboxer import CONTINUATION, WARM_FORK, RefusedError, Sandbox

__all__ = ["Faults", "JsonForm"]


class JsonForm(AdminServer):
    """The admin socket of the JSON form."""

    def verbs(self) -> Mapping[str, Verb]:
        """What this form answers."""
        own = {"template-create": self._create, "sandbox-list": self._sandboxes}
        return {**super().verbs(), **own}

    async def _create(self, request: Members) -> Members:
        """A template_id that is given is ignored; the key of a continuation as well. (R)"""
        sandbox_id = self.sandboxer.require_id("sandbox_id", text_of(request, "sandbox_id"))
        kind = request.get("snapshot_type")
        if kind == CONTINUATION:
            raise RefusedError("continuation store not configured")
        if isinstance(kind, str) and kind != WARM_FORK:
            raise RefusedError(f"unsupported snapshot_type '{kind}'; use warm_fork or continuation")
        key = text_of(request, "key", ": WarmFork snapshots require a pool key")
        self.sandboxer.require_key(key)
        self.sandboxer.require_pool()
        template = await self.sandboxer.create_fork(self._sandbox(sandbox_id), key)
        return {"template_id": template.template_id, "key": key, "snapshot_type": WARM_FORK}

    def _sandbox(self, sandbox_id: str) -> Sandbox:
        for sandbox in self.sandboxer.known():
            if sandbox.id == sandbox_id:
                return sandbox
        raise RefusedError(f"sandbox {sandbox_id} not found")

    async def _collect(self, request: Members) -> Members:
        """Kind is a mandatory cross-check. (R)"""
        kind = required(request, "kind")
        required(request, "template_id")
        if kind not in KIND_WORDS:
            raise RefusedError(f"unknown kind '{kind}'; use environment or warm_fork")
        self.sandboxer.remove(self.in_pool(request, kind))
        return {"kind": kind, "removed": 1, "remaining": len(self.sandboxer.templates)}

    async def _sandboxes(self, _request: Members) -> Members:
        """The template is shown whatever its kind, a bare machine's as well. (R)"""
        return {
            "sandboxes": [
                {
                    "id": one.id,
                    "status": one.status,
                    "base_dir": f"/run/kuasar-vmm/{one.id}",
                    "template_id": one.template_id or None,
                    "template_snapshot_type": one.template_type or None,
                }
                for one in await self.sandboxer.listed()
            ]
        }
