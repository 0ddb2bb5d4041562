"""Keep the snapshots, templates, classes that a new session may need, found in constant time."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import NamedTuple

from controlplane.api import names
from controlplane.api.core import SandboxTemplate
from controlplane.api.types import (
    SandboxSnapshot,
    SnapshotClass,
    SnapshotMode,
    SnapshotPhase,
)


class GroupKey(NamedTuple):
    """What a session asks for."""

    namespace: str
    template: str
    mode: SnapshotMode


class _Order(NamedTuple):
    """Newest first, then by name, then by UID: total, so that equal seconds change nothing."""

    newest: float
    name: str
    uid: str


class _Candidate(NamedTuple):
    order: _Order
    snapshot: SandboxSnapshot


@dataclass
class _Group:
    ready: list[_Candidate] = field(default_factory=list)
    others: set[str] = field(default_factory=set)


def group_of(snapshot: SandboxSnapshot) -> GroupKey | None:
    """The group that a snapshot serves, None if its source is not a template."""
    source = snapshot.spec.source_ref
    if source.kind != "SandboxTemplate" or source.api_group != names.EXTENSIONS_GROUP:
        return None
    return GroupKey(snapshot.metadata.namespace, source.name, snapshot.spec.snapshot_mode)


def is_candidate(snapshot: SandboxSnapshot) -> bool:
    """Sessions may restore from it, as far as its object says."""
    phase = snapshot.status.phase if snapshot.status else SnapshotPhase.PENDING
    return phase is SnapshotPhase.READY and not snapshot.metadata.is_terminating


def _order(snapshot: SandboxSnapshot) -> _Order:
    meta = snapshot.metadata
    created = meta.creation_timestamp.timestamp() if meta.creation_timestamp else 0.0
    return _Order(-created, meta.name, meta.uid)


class SessionIndex:
    """Fed by informers, in any order, from one thread; reads never wait and never scan."""

    def __init__(self) -> None:
        self._snapshots: dict[tuple[str, str], SandboxSnapshot] = {}
        self._groups: dict[GroupKey, _Group] = {}
        self._templates: dict[tuple[str, str], SandboxTemplate] = {}
        self._classes: dict[str, SnapshotClass] = {}
        self._classes_used: dict[str, set[tuple[str, str]]] = {}

    def put_snapshot(self, snapshot: SandboxSnapshot) -> None:
        """A snapshot was added or has changed."""
        name = (snapshot.metadata.namespace, snapshot.metadata.name)
        self.drop_snapshot(*name)
        self._snapshots[name] = snapshot
        self._classes_used.setdefault(snapshot.spec.snapshot_class_name, set()).add(name)
        key = group_of(snapshot)
        if key is None:
            return
        group = self._groups.setdefault(key, _Group())
        if is_candidate(snapshot):
            bisect.insort(
                group.ready, _Candidate(_order(snapshot), snapshot), key=lambda entry: entry.order
            )
        else:
            group.others.add(snapshot.metadata.name)

    def drop_snapshot(self, namespace: str, name: str) -> None:
        """A snapshot is gone; repeatable."""
        old = self._snapshots.pop((namespace, name), None)
        if old is None:
            return
        self._forget_use(old.spec.snapshot_class_name, (namespace, name))
        key = group_of(old)
        if key is None:
            return
        group = self._groups[key]
        group.others.discard(name)
        at = bisect.bisect_left(group.ready, _order(old), key=lambda entry: entry.order)
        if at < len(group.ready) and group.ready[at].snapshot is old:
            del group.ready[at]
        if not group.ready and not group.others:
            del self._groups[key]

    def put_template(self, template: SandboxTemplate) -> None:
        """A template was added or has changed."""
        self._templates[template.metadata.namespace, template.metadata.name] = template

    def drop_template(self, namespace: str, name: str) -> None:
        """A template is gone; repeatable."""
        self._templates.pop((namespace, name), None)

    def put_class(self, snapshot_class: SnapshotClass) -> None:
        """A class was added or has changed."""
        self._classes[snapshot_class.metadata.name] = snapshot_class

    def drop_class(self, name: str) -> None:
        """A class is gone; repeatable."""
        self._classes.pop(name, None)

    def candidates(self, key: GroupKey, most: int) -> list[SandboxSnapshot]:
        """The best ones to try, best first, so many at most."""
        group = self._groups.get(key)
        return [entry.snapshot for entry in group.ready[:most]] if group else []

    def has_any(self, key: GroupKey) -> bool:
        """Some snapshot is meant for such sessions, ready or not."""
        return key in self._groups

    def template(self, namespace: str, name: str) -> SandboxTemplate | None:
        """A template by name."""
        return self._templates.get((namespace, name))

    def snapshot_class(self, name: str) -> SnapshotClass | None:
        """A class by name."""
        return self._classes.get(name)

    def snapshots_of_class(self, name: str) -> list[SandboxSnapshot]:
        """The snapshots that name a class, in no particular order."""
        return [self._snapshots[key] for key in self._classes_used.get(name, ())]

    def _forget_use(self, class_name: str, snapshot: tuple[str, str]) -> None:
        users = self._classes_used[class_name]
        users.discard(snapshot)
        if not users:
            del self._classes_used[class_name]
