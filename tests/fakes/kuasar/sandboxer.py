"""What a Kuasar sandboxer keeps and how it decides, without a VM: a stand-in.

Each rule is marked by how it is known: R was read in the sandboxer's code, I was inferred from it,
M was measured on a running one, which
tests/integration/kuasar does again where KUASAR_BIN names one.

Where it deviates from the real one:
- A snapshot copies nothing; `pausing` stands for the time that it takes.
- Templates of bare machines are there only when a test adds them; disks, the memory of guests and
  continuations do not exist.
- Whether a session's containers are those of its snapshot is not compared.
- A restore takes no time; it fails when `restore_faults` says so.
- Times are counted in whole steps of `clock`, not taken from the system.
- Of an error's words those are the real ones that tests/integration/kuasar compares, and else the
  fragments that are known.
- A list that waits for a snapshot stalls no start of a Pod; it is counted in `stalls`.
- One that ends while a guest is paused leaves it so, and does not find out when it starts (I).
"""

from __future__ import annotations

import asyncio
import itertools
import re
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from agentd.kuasar.client import Form

from .starts import CONTINUATION, WARM_FORK, Config, Intent, RefusedError, intent_of

__all__ = ["CONTINUATION", "ENVIRONMENT", "WARM_FORK", "Config", "RefusedError", "Sandboxer"]

ENVIRONMENT = "environment"
READY_VERSION = "kuasar.io/warm-fork-ready-protocol-version"
_ID = re.compile(r"[A-Za-z0-9_-]{12,64}")
_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_ENDS = re.compile(r"[A-Za-z0-9](.*[A-Za-z0-9])?", re.DOTALL)


@dataclass
class Sandbox:
    """One that exists. is_listening: the workload waits on its inject socket.

    namespace, name: of the Pod; only the container runtime knows them.
    """

    id: str
    pod_uid: str
    status: str = "running"
    is_listening: bool = True
    annotations: Mapping[str, str] = field(default_factory=lambda: {READY_VERSION: "1"})
    template_id: str = ""
    template_type: str = ""
    is_paused: bool = False
    namespace: str = "team"
    name: str = "pod"
    created_at_secs: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_forked(self) -> bool:
        """It began from a snapshot of mode Fork."""
        return self.template_type == WARM_FORK


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


async def _at_once(_sandbox: Sandbox) -> None:
    """A snapshot takes no time."""


class Sandboxer:
    """The state of one node's sandboxer.

    pausing: awaited while a guest is paused for its snapshot. restore_faults: the words of restores
    to come that fail. stalls: lists that had to wait for a snapshot. harmed: sandboxes whose
    template was removed from under them, as can happen before the sandboxer has recovered. (I)
    created: how many snapshots of a key were ever made.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.sandboxes: dict[str, Sandbox] = {}
        self.templates: dict[str, Template] = {}
        self.is_recovered = True
        self.pausing: Callable[[Sandbox], Awaitable[None]] = _at_once
        self.restore_faults: deque[str] = deque()
        self.stalls = 0
        self.harmed: list[str] = []
        self.created: Counter[str] = Counter()
        self._clock = itertools.count(1_700_000_000)

    # -- sandboxes ------------------------------------------------------------------------

    def run(self, pod_uid: str, **facts: object) -> Sandbox:
        """Somebody started a Pod."""
        sandbox = Sandbox(uuid.uuid4().hex * 2, pod_uid, **facts)  # type: ignore[arg-type]
        sandbox.created_at_secs = next(self._clock)
        self.sandboxes[sandbox.id] = sandbox
        return sandbox

    def end(self, sandbox: Sandbox) -> None:
        """Its Pod is gone; too many templates lose the oldest that nobody needs any more. (R)"""
        del self.sandboxes[sandbox.id]
        template = self.templates.get(sandbox.template_id)
        if template is None or not template.uses:
            return
        template.uses -= 1
        while len(self.templates) > self.config.gc_watermark and (idle := self._oldest_idle()):
            del self.templates[idle.template_id]

    def known(self) -> list[Sandbox]:
        """Templates are known at once, sandboxes only once recovery is over. (R)"""
        return list(self.sandboxes.values()) if self.is_recovered else []

    def of_pod(self, pod_uid: str) -> Sandbox:
        """The newest with that UID. (R)"""
        for sandbox in reversed(self.known()):
            if sandbox.pod_uid == pod_uid:
                return sandbox
        raise RefusedError(f"no running sandbox found for pod_uid={pod_uid}")

    async def listed(self) -> list[Sandbox]:
        """Every known one; waits for each that is being snapshotted. (R)"""
        found = self.known()
        self.stalls += any(one.lock.locked() for one in found)
        for sandbox in found:
            async with sandbox.lock:
                pass
        return found

    # -- creating -------------------------------------------------------------------------

    async def create_fork(self, sandbox: Sandbox, key: str) -> Template:
        """Checks in this order; a second one of a key is another template. (R)

        Cancelled while the guest is paused, it leaves it so. (I)
        """
        async with sandbox.lock:
            self._check(sandbox)
            sandbox.is_paused = True
            await self.pausing(sandbox)
            sandbox.is_paused = False
            return self._add(key)

    def _check(self, sandbox: Sandbox) -> None:
        self.require_pool()
        if sandbox.status != "running":
            status = "Stopped(0, 0)" if sandbox.status == "stopped" else sandbox.status.title()
            raise RefusedError(
                f"snapshot requires sandbox {sandbox.id} to be running, current status: {status}"
            )
        if self.config.storage != "virtio-blk":
            raise RefusedError(
                "WarmFork/Continuation snapshots require container_storage_backend=virtio-blk; "
                f"current type '{self.config.storage}' cannot be snapshotted"
            )
        found = sandbox.annotations.get(READY_VERSION, "")
        if found != "1":
            raise RefusedError(
                f"sandbox {sandbox.id}: cannot create WarmFork template: pod annotation "
                f"'{READY_VERSION}=1' is required; found: '{found}'"
            )
        if not sandbox.is_listening:
            raise RefusedError(
                f"sandbox {sandbox.id}: WarmFork ready-check failed before snapshot: CONNECT_FAILED"
            )

    def require_pool(self) -> None:
        """The first that is checked, before the sandbox is looked for. (M)"""
        if not self.config.has_pool:
            raise RefusedError("template pool not configured")

    def _add(self, key: str) -> Template:
        """What is too much costs an idle one its place, or the new one its life. (R)"""
        if len(self.templates) >= self.config.gc_watermark:
            self._evict(self._oldest_idle(), "pool water level exceeded")
        same = [one for one in self.templates.values() if one.key == key]
        if len(same) >= self.config.max_per_key:
            oldest = min(same, key=lambda one: one.created_at_secs)
            limit = f"key is full, max_per_key={self.config.max_per_key}"
            self._evict(oldest if oldest.is_idle else None, limit)
        self.created[key] += 1
        return self._store(WARM_FORK, key)

    def _oldest_idle(self) -> Template | None:
        """A template of a lease for one restore never counts as idle. (R)"""
        kinds = {ENVIRONMENT, WARM_FORK} if self.config.lease == "shared" else {ENVIRONMENT}
        found = [one for one in self.templates.values() if one.snapshot_type in kinds]
        idle = [one for one in found if one.is_idle]
        return min(idle, key=lambda one: one.created_at_secs, default=None)

    def _evict(self, template: Template | None, otherwise: str) -> None:
        if template is None:
            raise RefusedError(otherwise)
        del self.templates[template.template_id]

    def _store(self, kind: str, key: str) -> Template:
        template = Template(uuid.uuid4().hex, kind, key, next(self._clock))
        self.templates[template.template_id] = template
        return template

    def add_environment(self, key: str = "/kernel:/image:1:512::virtio-blk") -> Template:
        """The sandboxer keeps a bare machine."""
        return self._store(ENVIRONMENT, key)

    # -- removing -------------------------------------------------------------------------

    def remove(self, template: Template) -> None:
        """By id, with a reason when it cannot be. Who uses it is known after recovery. (M)"""
        if template.restores:
            raise RefusedError(
                f"template {template.template_id} is currently being restored, cannot remove"
            )
        if template.uses and self.is_recovered:
            raise RefusedError(
                f"template {template.template_id} is in use by a running sandbox, cannot remove"
            )
        del self.templates[template.template_id]
        users = [
            one.id for one in self.sandboxes.values() if one.template_id == template.template_id
        ]
        self.harmed += users if template.uses else []

    # -- starting -------------------------------------------------------------------------

    def start(self, pod_uid: str, annotations: Mapping[str, str], form: Form) -> Sandbox:
        """A Pod with these annotations is started: restored, or booted without a word. (R)

        Raises: RefusedError: the start fails.
        """
        intent = intent_of(annotations, form, self.config)
        if intent is None:
            return self._boot(pod_uid, annotations)
        try:
            template = self._acquire(intent)
        except RefusedError:
            if intent.is_final:
                raise
            return self._boot(pod_uid, annotations)
        return self._restored(template, pod_uid, annotations)

    def restore(self, key: str, pod_uid: str) -> Sandbox:
        """The newest template of a key, else a boot. (R)"""
        try:
            template = self._acquire(Intent(key, "", is_final=False))
        except RefusedError:
            return self.run(pod_uid)
        return self._restored(template, pod_uid, {})

    def _acquire(self, intent: Intent) -> Template:
        if intent.is_continuation:
            raise RefusedError("continuation snapshot not found")
        template = self._selected(intent)
        if self.restore_faults:
            raise RefusedError(self.restore_faults.popleft())
        return template

    def _selected(self, intent: Intent) -> Template:
        """By id that one, else the newest of the key; a key that is given must be its own. (R)"""
        found = [one for one in self.templates.values() if one.snapshot_type == WARM_FORK]
        if intent.template_id:
            found = [one for one in found if one.template_id == intent.template_id]
        else:
            found = [one for one in found if one.key == intent.key]
        if not found:
            raise RefusedError(f"template {intent.template_id or intent.key} not found in pool")
        newest = max(found, key=lambda one: one.created_at_secs)
        if intent.key and newest.key != intent.key:
            raise RefusedError(f"template {newest.template_id} has another key than {intent.key}")
        return newest

    def _restored(
        self, template: Template, pod_uid: str, annotations: Mapping[str, str]
    ) -> Sandbox:
        """A shared template gains a use, an exclusive one is consumed. (R)"""
        if template.snapshot_type == WARM_FORK and self.config.lease == "exclusive":
            del self.templates[template.template_id]
        else:
            template.uses += 1
        return self.run(
            pod_uid,
            annotations=annotations,
            template_id=template.template_id,
            template_type=template.snapshot_type,
            is_listening=template.snapshot_type == ENVIRONMENT,
        )

    def _boot(self, pod_uid: str, annotations: Mapping[str, str]) -> Sandbox:
        """From a bare machine if there is one, else cold, where that is allowed. (R)"""
        bare = [one for one in self.templates.values() if one.snapshot_type == ENVIRONMENT]
        if bare and self.config.has_environment_restores:
            return self._restored(bare[-1], pod_uid, annotations)
        if not self.config.has_fallback:
            raise RefusedError("no template matches and fallback_to_fresh_boot=false")
        return self.run(pod_uid, annotations=annotations)

    # -- ids ------------------------------------------------------------------------------

    @staticmethod
    def require_id(kind: str, text: str) -> str:
        """As both forms check ids; the length counts bytes. (M)"""
        length = len(text.encode())
        if not 12 <= length <= 64:
            raise RefusedError(f"invalid {kind}: id must be 12-64 characters, got {length}")
        if _ID.fullmatch(text) is None:
            raise RefusedError(
                f"invalid {kind}: id '{text}' contains invalid characters "
                "(only [a-zA-Z0-9_-] allowed)"
            )
        return text

    @staticmethod
    def require_key(text: str) -> str:
        """As the JSON form checks keys; the length counts bytes. (M)"""
        length = len(text.encode())
        if not 1 <= length <= 253:
            raise RefusedError(f"invalid key: key must be 1-253 characters, got {length}")
        if _ENDS.fullmatch(text) is None:
            raise RefusedError(
                f"invalid key: key '{text}' must start and end with an alphanumeric character"
            )
        if _KEY.fullmatch(text) is None:
            raise RefusedError(
                f"invalid key: key '{text}' contains invalid characters "
                "(only [a-zA-Z0-9_.-] allowed)"
            )
        return text
