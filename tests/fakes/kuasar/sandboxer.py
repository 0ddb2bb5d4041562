"""What a Kuasar sandboxer keeps and how it decides, without a VM: a stand-in.

Each rule is marked by how it is known: R was read in the sandboxer's code, I was inferred from it,
M was measured on a running one (none so far).

Where it deviates from the real one:
- A snapshot takes no time and copies nothing; `pause` stands for the time that it takes.
- Environment templates, refilling, disks and the memory of guests do not exist.
- Times are counted in whole steps of `clock`, not taken from the system.
- Of an error's words only the fragments that are known are the real ones.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

WARM_FORK = "warm_fork"
CONTINUATION = "continuation"
READY_VERSION = "kuasar.io/warm-fork-ready-protocol-version"
_ID = re.compile(r"[A-Za-z0-9_-]{12,64}")
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


class RefusedError(Exception):
    """The words that a client gets."""


@dataclass
class Config:
    """Of a node. Defaults are those of the shipped example, but for `lease`. (R)"""

    has_pool: bool = True
    has_continuations: bool = False
    storage: str = "virtio-blk"
    max_per_key: int = 5
    gc_watermark: int = 50
    lease: str = "shared"


@dataclass
class Sandbox:
    """One that runs."""

    id: str
    pod_uid: str
    status: str = "running"
    is_listening: bool = True
    annotations: dict[str, str] = field(default_factory=lambda: {READY_VERSION: "1"})
    template_id: str = ""
    is_paused: bool = False


@dataclass
class Template:
    """One that can be restored. uses: running sandboxes; restores: under way."""

    template_id: str
    snapshot_type: str
    key: str
    created_at_secs: int
    uses: int = 0
    restores: int = 0

    @property
    def is_idle(self) -> bool:
        return not self.uses and not self.restores


class Sandboxer:
    """The state of one node's sandboxer."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.sandboxes: dict[str, Sandbox] = {}
        self.templates: dict[str, Template] = {}
        self.is_recovered = True
        self.pause: Callable[[Sandbox], None] = lambda sandbox: None
        self._clock = itertools.count(1_700_000_000)

    def run(self, pod_uid: str, **facts: object) -> Sandbox:
        """Somebody started a Pod."""
        sandbox = Sandbox(uuid.uuid4().hex * 2, pod_uid, **facts)  # type: ignore[arg-type]
        self.sandboxes[sandbox.id] = sandbox
        return sandbox

    def known(self) -> list[Sandbox]:
        """Templates are known at once, sandboxes only once recovery is over. (R)"""
        return list(self.sandboxes.values()) if self.is_recovered else []

    # -- creating -------------------------------------------------------------------------

    def create_fork(self, sandbox: Sandbox, key: str) -> Template:
        """Checks in this order; a second one of a key is another template. (R)"""
        if sandbox.status != "running":
            raise RefusedError(
                f"expected sandbox {sandbox.id} to be running, current status {sandbox.status}"
            )
        if self.config.storage != "virtio-blk":
            raise RefusedError("snapshots require container_storage_backend=virtio-blk")
        if not self.config.has_pool:
            raise RefusedError("template pool not configured")
        if sandbox.annotations.get(READY_VERSION) != "1":
            raise RefusedError(f"pod annotation '{READY_VERSION}=1' is required")
        if not sandbox.is_listening:
            raise RefusedError("WarmFork ready-check failed before snapshot: CONNECT_FAILED")
        sandbox.is_paused = True
        self.pause(sandbox)
        sandbox.is_paused = False
        return self._add(key)

    def _add(self, key: str) -> Template:
        """What is too much costs an idle one its place, or the new one its life. (R)"""
        if len(self.templates) >= self.config.gc_watermark:
            self._evict(list(self.templates.values()), "pool water level exceeded")
        same = [one for one in self.templates.values() if one.key == key]
        if len(same) >= self.config.max_per_key:
            self._evict(same, f"no idle template to evict, max_per_key={self.config.max_per_key}")
        template = Template(uuid.uuid4().hex, WARM_FORK, key, next(self._clock))
        self.templates[template.template_id] = template
        return template

    def _evict(self, among: list[Template], otherwise: str) -> None:
        idle = min(
            (one for one in among if one.is_idle), key=lambda one: one.created_at_secs, default=None
        )
        if idle is None:
            raise RefusedError(otherwise)
        del self.templates[idle.template_id]

    # -- removing -------------------------------------------------------------------------

    def remove(self, template: Template) -> None:
        """By id, with a reason when it cannot be. (R)"""
        if template.restores:
            raise RefusedError(f"template {template.template_id} is currently being restored")
        if template.uses:
            raise RefusedError(f"template {template.template_id} is in use by a running sandbox")
        del self.templates[template.template_id]

    # -- restoring ------------------------------------------------------------------------

    def restore(self, key: str, pod_uid: str) -> Sandbox:
        """The newest template of a key; an exclusive one is consumed. (R)"""
        found = [one for one in self.templates.values() if one.key == key]
        newest = max(found, key=lambda one: one.created_at_secs, default=None)
        if newest is None:
            return self.run(pod_uid)
        if self.config.lease == "exclusive":
            del self.templates[newest.template_id]
        else:
            newest.uses += 1
        return self.run(pod_uid, template_id=newest.template_id)

    # -- ids ------------------------------------------------------------------------------

    @staticmethod
    def require_id(kind: str, text: object) -> str:
        """As both forms check ids. (R)"""
        if not isinstance(text, str) or _ID.fullmatch(text) is None:
            raise RefusedError(f"invalid {kind}: {text!r}")
        return text

    @staticmethod
    def require_key(text: object) -> str:
        """As the JSON form checks keys. (R)"""
        if not isinstance(text, str) or _KEY.fullmatch(text) is None:
            raise RefusedError(f"invalid key: {text!r}")
        return text
