"""State what must hold after every step, whatever went wrong before."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from agentd.providers.driver import CreateRequest
from controlplane.api import names
from controlplane.api.core import Pod, Sandbox, SandboxTemplate
from controlplane.api.manifest import Artifact, Manifest
from controlplane.api.types import (
    ArtifactPhase,
    SandboxSnapshot,
    SandboxSnapshotTask,
    SnapshotClass,
    SnapshotPhase,
)
from controlplane.errors import CorruptError
from controlplane.kube.cache import Changed
from controlplane.kube.resource import SNAPSHOT_CLASSES, SNAPSHOTS, TASKS
from controlplane.sessions.decision import Decision
from controlplane.sessions.session import SessionStart
from controlplane.snapshots.hash import compute_hash, fork_source
from controlplane.snapshots.observed import Observed
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.steps import Plan
from controlplane.store import codec
from controlplane.store.store import OwnerKey, Stored

from .driver import Content, Machine, Physical, content_of_spec
from .loop import Process
from .plans import judge_plan
from .truth import SANDBOXES, TEMPLATES

if TYPE_CHECKING:
    from .processes import Admission
    from .world import World

_NOT_IN_REST: Final = ("containers", "tolerations")
# Failed builds of one node in one set within `reopen_s`: three in a row, and those of one more
# round that began before; the rest is for restarts by lost artifacts, outages, crashed writers.
_MOST_FAILURES: Final = 8
# Calls of the driver for one task within its 15 min: 10 s, then doubling.
_MOST_CREATES: Final = 10


@dataclass(frozen=True)
class Violation:
    """name: of the invariant. detail: which objects."""

    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


@dataclass
class _Asked:
    """A session whose lookup is under way. reads: what the store answered."""

    session: SessionStart
    reads: list[tuple[OwnerKey, Stored | None, bool, Manifest | None]] = field(default_factory=list)


class Invariants:
    """Looks on; `found` is what was broken."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.found: list[Violation] = []
        self.is_disk_changed = False
        self.session_sandboxes: set[tuple[str, str]] = set()
        self.forged_tasks: set[tuple[str, str]] = set()
        self.restored = 0
        self.triggers: Counter[tuple[str, str]] = Counter()
        self.forces = 0
        self._contents: dict[str, Content] = {}
        self._templates: list[SandboxTemplate] = []
        self._classes: list[SnapshotClass] = []
        self._digests: dict[tuple[str, Content], str] = {}
        self._misled: set[str] = set()
        self._sealed: set[tuple[str, str]] = set()
        self._asked: dict[str, list[_Asked]] = defaultdict(list)
        self._gone: set[str] = set()
        self._let_go: set[str] = set()
        self._begun: dict[str, datetime] = {}
        self._sets_begun: Counter[str] = Counter()
        self._failures: dict[tuple[str, str], list[datetime]] = defaultdict(list)
        self._phases: dict[tuple[str, str], ArtifactPhase] = {}
        self._creates: Counter[tuple[str, str]] = Counter()
        self._seen_state = (-1, -1)
        truth = world.truth
        truth.listen(SNAPSHOTS, self._snapshot_changed)
        truth.listen(TEMPLATES, self._template_changed)
        truth.listen(SNAPSHOT_CLASSES, self._class_changed)
        truth.listen(SANDBOXES, self._sandbox_changed)
        truth.listen(TASKS, self._task_changed)

    def report(self, name: str, detail: str) -> None:
        """Something is broken."""
        self._world.trace(f"VIOLATION {name}: {detail}")
        self.found.append(Violation(name, detail))

    def after_step(self) -> None:
        """What is a matter of state."""
        for error in self._world.loop.errors:
            self.report("no program fails by a defect of its own", error)
        self._world.loop.errors.clear()
        state = (self._world.truth.changes, self._world.memory.writes)
        if state == self._seen_state and not self.is_disk_changed:
            return
        self._seen_state, self.is_disk_changed = state, False
        self._check_disks()

    # Physical artifacts

    def _check_disks(self) -> None:
        manifests: dict[OwnerKey, Manifest | None] = {}
        for machine in self._world.machines.values():
            for key, physical in machine.artifacts.items():
                self._check_reachable(machine, key, physical, manifests)

    def _check_reachable(
        self,
        machine: Machine,
        key: str,
        physical: Physical,
        manifests: dict[OwnerKey, Manifest | None],
    ) -> None:
        """Each artifact is named by its snapshot's manifest or by a task, or its snapshot goes."""
        owner = physical.facts.owner
        assert owner is not None
        truth = self._world.truth
        snapshot = truth.snapshots.get(owner.snapshot_name, owner.namespace)
        if snapshot is None or snapshot.metadata.uid != owner.snapshot_uid:
            return  # the sweep's
        owner_key = OwnerKey(owner.namespace, owner.snapshot_name, owner.snapshot_uid)
        if owner_key not in manifests:
            manifests[owner_key] = self.manifest(owner_key)
        manifest = manifests[owner_key]
        if manifest is not None and (machine.name, key) in _named(manifest):
            return
        since = snapshot.metadata.deletion_timestamp
        is_let_go = manifest is None or snapshot.metadata.uid in self._let_go
        if since is not None and (is_let_go or self._is_given_up(since)):
            return  # the record is gone or the wait is over, the finalizer goes next
        if any(
            task.spec.snapshot_key == key and task.spec.target_node_name == machine.name
            for task in truth.tasks.all()
        ):
            return
        self.report(
            "no artifact is both unreferenced and unreachable for garbage collection",
            f"{key} on {machine.name}",
        )

    def _is_given_up(self, since: datetime) -> bool:
        return (self._world.now - since).total_seconds() >= Policy().deletion_s

    def manifest(self, key: OwnerKey) -> Manifest | None:
        """What the store holds in truth."""
        raw = self._world.memory.texts.get(str(key))
        try:
            return None if raw is None else codec.decode(key, raw).manifest
        except CorruptError as exc:
            self.report("what is stored can be read", str(exc))
            return None

    # Builds

    def create_called(self, machine: Machine, request: CreateRequest) -> None:
        """A driver begins to snapshot a Pod."""
        what = f"{request.key} from Pod {request.pod_name} on {machine.name}"
        if machine.creating[request.pod_uid] > 1:
            self.report("a Sandbox is snapshotted by one call at a time", what)
        if request.pod_uid in machine.captured & machine.running:
            self.report("a Sandbox is snapshotted at most once", what)
        pod = self._world.pod_by_uid(request.pod_uid)
        if pod is not None:
            self._check_target(pod, request, what)
        self._creates[request.pod_uid, request.key] += 1
        if self._creates[request.pod_uid, request.key] > _MOST_CREATES:
            self.report("a task's attempts are bounded", what)

    def _check_target(self, pod: Pod, request: CreateRequest, what: str) -> None:
        owner = pod.metadata.controller
        name = owner.name if owner else ""
        if (pod.metadata.namespace, name) in self.session_sandboxes:
            self.report("no session's Sandbox is ever snapshotted", what)
        env = pod.spec["containers"][0].get("env") or []
        gates = [one for one in env if one["name"] == names.SESSION_GATE_ENV]
        if len(gates) != 1:
            self.report("a build's gate is closed by exactly one entry", what)
        if (pod.spec.get("automountServiceAccountToken")) is not False:
            self.report("a build has no service account token", what)
        if names.SNAPSHOT_KEY in (pod.metadata.annotations or {}):
            self.report("a build restores from nothing", what)

    def sealed(self, machine: Machine, request: CreateRequest, made: Physical) -> None:
        """A driver made an artifact."""
        what = f"{request.key} on {machine.name}"
        self._sealed.add((request.key, machine.name))
        if request.pod_uid in machine.captured:
            self.report("a Sandbox is snapshotted at most once", what)
        wanted = self._content_of(request.snapshot_hash)
        if wanted is None:
            self.report("an artifact's hash is of some template", what)
        elif wanted != made.content:
            self.report(
                "an artifact is made from what its hash says",
                f"{what}: holds {made.content}, its hash says {wanted}",
            )
        for other in self._world.machines.values():
            twin = other.artifacts.get(request.key)
            if twin is not None and twin.facts.owner != request.owner:
                self.report("no two snapshots share a key", what)

    def _template_changed(self, change: Changed[SandboxTemplate]) -> None:
        found = change.new or change.old
        assert found is not None
        if not (change.old and change.new and _same_content(change.old, change.new)):
            self._trigger(namespace=found.metadata.namespace)
        if change.new is not None:
            self._templates.append(change.new)
            for snapshot_class in self._world.truth.classes.all():
                self._learn(change.new, snapshot_class)

    def _class_changed(self, change: Changed[Any]) -> None:
        found = change.new or change.old
        assert found is not None
        self._trigger(class_name=found.metadata.name)
        if change.new is not None:
            self._classes.append(change.new)
            for template in self._world.truth.templates.all():
                self._learn(template, change.new)

    def _learn(self, template: SandboxTemplate, snapshot_class: Any) -> None:
        """One hash never stands for two contents, or keys of tenants."""
        digest = compute_hash(fork_source(template, snapshot_class))
        marks = snapshot_class.spec.build_pod_annotations or {}
        content = content_of_spec(template.spec.pod_template.spec, marks)
        known = self._contents.setdefault(digest, content)
        if known != content:
            self.report("one hash stands for one content", f"{known} and {content}")
        spec = template.spec.pod_template.spec
        rest = sorted((k, str(v)) for k, v in spec.items() if v and k not in _NOT_IN_REST)
        of = (f"{snapshot_class.metadata.name} {template.metadata.uid} {rest}", content)
        if self._digests.setdefault(of, digest) != digest:
            self.report("what means the same has the same hash", str(content))

    def _content_of(self, digest: str) -> Content | None:
        """Who lags may combine versions that never were there together."""
        if digest not in self._contents:
            for template in self._templates:
                for snapshot_class in self._classes:
                    self._learn(template, snapshot_class)
        return self._contents.get(digest)

    def _trigger(self, namespace: str = "", class_name: str = "") -> None:
        for one in self._world.truth.snapshots.all():
            if one.metadata.namespace == namespace or one.spec.snapshot_class_name == class_name:
                self.triggers[one.metadata.namespace, one.metadata.name] += 1

    def _sandbox_changed(self, change: Changed[Sandbox]) -> None:
        if change.old is not None or change.new is None:
            return
        sandbox = change.new
        meta = sandbox.metadata
        if (meta.namespace, meta.name) in self.session_sandboxes:
            return
        what = f"{meta.namespace}/{meta.name}"
        if sandbox.spec.shutdown_time is None:
            self.report("a build Sandbox expires by itself", what)
        if len(meta.name) > 63 or not meta.name[0].isalpha() or meta.name.endswith("-"):
            self.report("names are DNS labels", what)
        owner = meta.controller
        if owner is None or meta.label(names.SNAPSHOT_UID) != owner.uid:
            self.report("a build Sandbox says whose it is", what)
        marks = sandbox.spec.pod_template.metadata.annotations or {}
        if "provider.example/stray" in marks:
            self.report("a user's annotations do not reach the provider", what)

    # The store

    def store_read(
        self, process: Process, key: OwnerKey, stored: Stored | None, is_stale: bool
    ) -> None:
        """A lookup's read is kept for its answer."""
        if process.name.startswith("leader"):
            # Who reads what is old tells what is old, until the next look.
            (self._misled.add if is_stale else self._misled.discard)(key.uid)
        truth = self.manifest(key)
        for asked in self._asked[process.name]:
            asked.reads.append((key, stored, is_stale, truth))

    def store_put(
        self,
        process: Process,
        key: OwnerKey,
        before: bytes | None,
        version: str | None,
        manifest: Manifest,
    ) -> None:
        """A write is over what its writer had read, is of a living snapshot, loses nothing."""
        expected = None if version is None else version.encode()
        if before != expected:
            self.report("no write overwrites another one's", str(key))
        if key.uid in self._gone:
            self.report("no manifest comes back after its snapshot", str(key))
        old = codec.decode(key, before).manifest if before is not None else None
        if old is not None and old.deleted_at is not None and manifest.deleted_at is None:
            self.report("a tombstone stays", str(key))
        owner = manifest.owner_ref
        if owner is None or (owner.name, owner.uid) != (key.name, key.uid):
            self.report("a manifest says whose it is", str(key))
        self._check_retired(key, old, manifest)
        self._check_sets(key, old, manifest)
        self._note_phases(key, manifest)

    def _check_retired(self, key: OwnerKey, old: Manifest | None, new: Manifest) -> None:
        """What leaves a set goes to the retired ones; it leaves those when it is gone."""
        if old is None:
            return
        kept = _named(new)
        for node, snapshot_key in _named(old) - kept:
            machine = self._world.machines.get(node)
            is_there = machine is not None and snapshot_key in machine.artifacts
            if is_there and self._world.truth.nodes.get(node) is not None:
                self.report("nothing is forgotten that is still there", f"{snapshot_key} on {node}")

    def _check_sets(self, key: OwnerKey, old: Manifest | None, new: Manifest) -> None:
        known = set(old.artifact_sets or ()) if old else set()
        for snapshot_key, one in (new.artifact_sets or {}).items():
            if snapshot_key in known:
                continue
            self._sets_begun[key.uid] += 1
            if snapshot_key in self._begun:
                self.report("a key is used once", snapshot_key)
            self._begun[snapshot_key] = self._world.now
            self._check_storm(key, one.reason)
        if old is not None and new.rebuild_seq < old.rebuild_seq:
            self.report("the sequence only grows", str(key))

    def _check_storm(self, key: OwnerKey, reason: object) -> None:
        """Sets are begun for reasons."""
        snapshot = self._world.truth.snapshots.get(key.name, key.namespace)
        if snapshot is None:
            return
        born = snapshot.metadata.creation_timestamp or self._world.now
        age_s = (self._world.now - born).total_seconds()
        periods = age_s / 1200  # the shortest rebuildAfter, the wait after giving up
        triggers = self.triggers[key.namespace, key.name]
        most = 3 + 2 * triggers + 2 * periods + self._world.restarts / 4
        if self._sets_begun[key.uid] > most:
            self.report(
                "sets are begun for reasons",
                f"{self._sets_begun[key.uid]} of {key}, reason {reason}, {triggers} triggers in "
                f"{age_s:.0f} s",
            )

    def _note_phases(self, key: OwnerKey, manifest: Manifest) -> None:
        """Failures within one window are bounded; Ready was made."""
        for snapshot_key, one in (manifest.artifact_sets or {}).items():
            for artifact in one.artifacts or ():
                self._note_phase(snapshot_key, artifact)

    def _note_phase(self, snapshot_key: str, artifact: Artifact) -> None:
        at = (snapshot_key, artifact.node_name)
        was, self._phases[at] = self._phases.get(at), artifact.phase
        if artifact.phase is ArtifactPhase.READY and at not in self._sealed:
            self.report("only what was made is Ready", f"{snapshot_key} on {at[1]}")
        if artifact.phase is ArtifactPhase.FAILED and was is not artifact.phase:
            now = self._world.now
            recent = [when for when in self._failures[at] if now - when < timedelta(minutes=29)]
            self._failures[at] = [*recent, now]
            if len(recent) >= _MOST_FAILURES:
                self.report("attempts on a node are bounded", f"{snapshot_key} on {at[1]}")

    def store_deleted(self, key: OwnerKey, before: bytes | None, version: str | None) -> None:
        """A manifest goes only with its snapshot."""
        if before is None:
            return
        snapshot = self._world.truth.snapshots.get(key.name, key.namespace)
        is_alive = snapshot is not None and snapshot.metadata.uid == key.uid
        # Who comes after a crash proves its absence by a tombstone, then the finalizer goes.
        self._let_go.add(key.uid)
        if is_alive and snapshot is not None and not snapshot.metadata.is_terminating:
            self.report("a living snapshot's manifest stays", str(key))
        if version is not None and before != version.encode():
            self.report("no write overwrites another one's", str(key))

    # Plans

    def planned(self, seen: Observed, plan: Plan) -> None:
        """What was decided, against what was known."""
        for problem in judge_plan(seen, plan, self._world.now):
            meta = seen.snapshot.metadata
            self.report(problem, f"{meta.namespace}/{meta.name}")

    # Status

    def _snapshot_changed(self, change: Changed[SandboxSnapshot]) -> None:
        old, new = change.old, change.new
        if new is None:
            assert old is not None
            self._gone.add(old.metadata.uid)
            if names.SNAPSHOT_FINALIZER in (old.metadata.finalizers or ()):
                return
            self._check_gone(old)
            return
        forced = new.metadata.annotation(names.FORCE_REBUILD) == "true"
        was_forced = old is not None and old.metadata.annotation(names.FORCE_REBUILD) == "true"
        if forced and not was_forced:
            self.triggers[change.key] += 1
        if old is None or old.spec != new.spec:
            self.triggers[change.key] += 1
        if new.status is not None and (old is None or old.status != new.status):
            self._check_status(new)

    def _check_gone(self, snapshot: SandboxSnapshot) -> None:
        meta = snapshot.metadata
        if meta.deletion_timestamp is None:
            return  # it had no finalizer yet
        key = OwnerKey(meta.namespace, meta.name, meta.uid)
        if str(key) in self._world.memory.texts:
            self.report("a snapshot goes after its manifest", str(key))

    def _check_status(self, snapshot: SandboxSnapshot) -> None:
        status, meta = snapshot.status, snapshot.metadata
        assert status is not None
        what = f"{meta.namespace}/{meta.name}"
        counts = (
            status.creating_node_count,
            status.ready_node_count,
            status.failed_node_count,
            status.unavailable_node_count,
        )
        if sum(counts) != status.target_node_count or min(counts) < 0:
            self.report("counts sum up", f"{what}: {counts} of {status.target_node_count}")
        if len(status.message.encode()) > 1024:
            self.report("a status message is bounded", what)
        if status.phase is not SnapshotPhase.READY or meta.uid in self._misled:
            return
        manifest = self.manifest(OwnerKey(meta.namespace, meta.name, meta.uid))
        active = manifest.active if manifest else None
        if active is None or not status.ready_node_count or status.ready_at is None:
            self.report("Ready means that sessions can restore", f"{what}: no active set")
        elif not any(a.phase is ArtifactPhase.READY for a in active.artifacts or ()):
            self.report("Ready means that sessions can restore", f"{what}: no Ready artifact")
        elif status.ready_at != active.promoted_at:
            self.report("readyAt is the active set's", what)

    # Tasks

    def _task_changed(self, change: Changed[SandboxSnapshotTask]) -> None:
        old, new = change.old, change.new
        if new is None:
            return
        status = new.status
        if status is not None and status.phase is not None and status.observed_at is None:
            self.report("a task's status says when", new.metadata.name)
        if old is None or old.status is None or old.status.phase is None:
            return
        was = old.status.phase
        if was.is_terminal_for_task and (status is None or status.phase is not was):
            self.report("a task that is over stays so", new.metadata.name)
        if len(new.metadata.name) > 63:
            self.report("names are DNS labels", new.metadata.name)

    # Sessions

    def ask(self, admission: Admission, session: SessionStart) -> None:
        """A session is about to start."""
        asked = _Asked(session)
        self._asked[admission.process.name].append(asked)

        going = admission.going  # as of the start: what comes later, it need not know

        def told(decision: Decision) -> None:
            is_going = (session.namespace, decision.snapshot) in going
            if decision.key is not None and is_going:
                self.report("a snapshot that goes serves nobody", decision.snapshot)
            self._asked[admission.process.name].remove(asked)
            self._world.trace(f"session {session.namespace}: {decision.reason} {decision.key}")
            if decision.key is not None:
                self._check_intent(asked, decision.key)

        admission.ask(session, told)

    def _check_intent(self, asked: _Asked, key: str) -> None:
        """No session gets a key whose set is not active, ready, hash-equal when it was read."""
        self.restored += 1
        name = "a session's key is of an active, ready, hash-equal set"
        wanted = content_of_spec(asked.session.spec.pod_template.spec)
        for machine in self._world.machines.values():
            physical = machine.artifacts.get(key)
            if physical is None:
                continue
            if not physical.content.fits(wanted):
                detail = f"{key} on {machine.name}: {physical.content} for {wanted}"
                self.report("a session restores what it would have started", detail)
            owner = physical.facts.owner
            if owner is None or owner.namespace != asked.session.namespace:
                self.report("a session restores its own tenant's artifact", key)
        for owner_key, stored, is_stale, truth in asked.reads:
            manifest = (stored.manifest if stored else None) if is_stale else truth
            active = manifest.active if manifest else None
            if active is None or active.snapshot_key != key:
                continue
            if owner_key.namespace != asked.session.namespace:
                self.report("a session restores its own tenant's artifact", key)
            content = self._content_of(active.snapshot_hash)
            ready = any(one.phase is ArtifactPhase.READY for one in active.artifacts or ())
            if content is None or not content.fits(wanted):
                self.report(name, f"{key}: not hash-equal")
            if not ready:
                self.report(name, f"{key}: no Ready artifact")
            if manifest is not None and manifest.deleted_at is not None:
                self.report(name, f"{key}: its snapshot is being deleted")
            return
        self.report(name, f"{key}: not active in what was read")


def _named(manifest: Manifest) -> set[tuple[str, str]]:
    """What somebody will delete: (node, key)."""
    found = {
        (artifact.node_name, key)
        for key, one in (manifest.artifact_sets or {}).items()
        for artifact in one.artifacts or ()
    }
    for retired in manifest.retired_sets or ():
        found |= {(name, retired.snapshot_key) for name in retired.node_names or ()}
    return found


def _same_content(old: SandboxTemplate, new: SandboxTemplate) -> bool:
    """Only an order that means nothing changed."""

    def facts(template: SandboxTemplate) -> object:
        spec = dict(template.spec.pod_template.spec)
        spec.pop("tolerations", None)
        return template.metadata.uid, spec

    return facts(old) == facts(new)
