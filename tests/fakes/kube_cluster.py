"""What an API server holds: objects, their history, open watches."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    NotFoundError,
    PeerError,
    RejectedError,
    UnavailableError,
)
from controlplane.kube.api import Page, WatchEvent, WatchKind
from controlplane.kube.resource import Resource

from .kube_objects import (
    Path,
    copied,
    drop_leaf,
    field_text,
    leaves,
    matches_fields,
    matches_labels,
    merge_patched,
    put_leaf,
)

_WITH_STATUS: Final = frozenset(
    {
        "sandboxsnapshots",
        "sandboxsnapshottasks",
        "codeinterpreters",
        "sandboxes",
        "sandboxclaims",
        "sandboxwarmpools",
        "nodes",
        "pods",
    }
)
_STATUS_KEPT_ON_CREATE: Final = frozenset({"nodes", "pods"})
_WITHOUT_GENERATION: Final = frozenset({"nodes", "leases", "events", "configmaps", "secrets"})
_UPDATE: Final = "update"  # the manager of whatever is not written by apply
_SERVER_OWNED: Final = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)

Kind = tuple[str, str]  # group, plural
Key = tuple[str, str]  # namespace, name


@dataclass(frozen=True)
class _Change:
    """One write: before or after is None when the object was not, or is no longer, there."""

    version: int
    before: JsonObject | None
    after: JsonObject | None


@dataclass
class _Table:
    """All objects of one kind, with the history that watches can still ask for."""

    history: deque[_Change]
    objects: dict[Key, JsonObject] = field(default_factory=dict)
    owned: dict[Key, dict[Path, set[str]]] = field(default_factory=dict)
    expired_before: int = 0


class FakeWatch:
    """An open watch; `on_change` is called when there is something to `poll`."""

    def __init__(self, resource: Resource, namespace: str, labels: str, fields: str) -> None:
        self.resource = resource
        self._namespace = namespace
        self._labels = labels
        self.fields = fields
        self._events: deque[WatchEvent] = deque()
        self.is_ended = False
        self._error: Exception | None = None
        self.on_change: Callable[[], None] = lambda: None

    def poll(self) -> list[WatchEvent]:
        """What has come since. Raises: what ended the watch, once everything before it is taken."""
        events = list(self._events)
        self._events.clear()
        if not events and self._error is not None:
            raise self._error
        return events

    def end(self, error: Exception | None = None) -> None:
        """The server ends it, or the connection breaks with an error."""
        self.is_ended, self._error = True, error
        self.on_change()

    def offer(self, change: _Change) -> None:
        """Queue what this watch is to see of a change."""
        was, is_now = self._selects(change.before), self._selects(change.after)
        if is_now:
            kind = WatchKind.MODIFIED if was else WatchKind.ADDED
            self._put(kind, change.after or {}, change.version)
        elif was:
            self._put(WatchKind.DELETED, change.before or {}, change.version)

    def bookmark(self, version: int) -> None:
        """Queue a bookmark."""
        kind = {"kind": self.resource.kind, "apiVersion": self.resource.api_version}
        self._put(WatchKind.BOOKMARK, {**kind, "metadata": {}}, version)

    def _selects(self, body: JsonObject | None) -> bool:
        return body is not None and _selects(body, self._namespace, self._labels, self.fields)

    def _put(self, kind: WatchKind, body: JsonObject, version: int) -> None:
        if not self.is_ended:
            body = copied(body)
            body["apiVersion"] = self.resource.api_version
            body["metadata"]["resourceVersion"] = str(version)
            self._events.append(WatchEvent(kind, body))
            self.on_change()


class FakeCluster:
    """The objects, their versions, their watches.

    Args: now: the clock, UTC. new_uid: the source of UIDs. history_limit: changes of one kind that
    a watch can ask for; beyond, 410. served: the versions of a group, the preferred one first; a
    group that is not named serves whatever it is asked for.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_uid: Callable[[], str] | None = None,
        history_limit: int = 1000,
        served: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._now = now
        self._numbers = itertools.count(1)
        self._new_uid = new_uid or self._next_uid
        self._history_limit = history_limit
        both = {names.SANDBOX_GROUP: ("v1beta1",), names.EXTENSIONS_GROUP: ("v1beta1",)}
        self.served = both if served is None else served
        self.version = 1
        self._tables: dict[Kind, _Table] = {}
        self._uids: dict[str, tuple[Kind, Key]] = {}
        self._watches: dict[tuple[Kind, str, str], list[FakeWatch]] = {}
        self._fields: dict[Kind, Counter[str]] = {}

    def objects(self, resource: Resource) -> tuple[JsonObject, ...]:
        """Copies of all, uncounted, for assertions; by namespace then name."""
        table = self._table(resource)
        return tuple(copied(table.objects[key]) for key in sorted(table.objects))

    # Reads

    def get(self, resource: Resource, name: str, namespace: str = "") -> JsonObject:
        """As KubeApi.get."""
        return self._shown(resource, self._existing(resource, (namespace, name)))

    def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        page: str = "",
        limit: int = 500,
    ) -> Page:
        """As KubeApi.list."""
        table = self._table(resource)
        version, after = _read_page(page) if page else (self.version, ("", ""))
        if page and version < table.expired_before:
            raise ExpiredError(f"list {resource}: the continue token is too old")
        found = sorted(
            key
            for key, body in table.objects.items()
            if key > after and _selects(body, namespace, labels, fields)
        )
        items = tuple(self._shown(resource, table.objects[key]) for key in found[:limit])
        rest = f"{version} {'/'.join(found[limit - 1])}" if len(found) > limit else ""
        return Page(items, str(version), rest)

    def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
    ) -> FakeWatch:
        """An open watch, with what happened since. Raises: ExpiredError; NotFoundError."""
        table = self._table(resource)
        since = int(resource_version)
        if since < table.expired_before:
            raise ExpiredError(f"watch {resource}: too old resource version: {since}")
        watch = FakeWatch(resource, namespace, labels, fields)
        recent = itertools.takewhile(lambda change: change.version > since, reversed(table.history))
        for change in reversed(list(recent)):
            watch.offer(change)
        self._watches.setdefault(self._bucket(watch), []).append(watch)
        return watch

    def close_watch(self, watch: FakeWatch) -> None:
        """The client hangs up."""
        watch.is_ended = True
        open_ones = self._watches.get(self._bucket(watch), [])
        if watch in open_ones:
            open_ones.remove(watch)

    @property
    def open_watches(self) -> tuple[FakeWatch, ...]:
        """Those that neither side has ended."""
        return tuple(watch for bucket in self._watches.values() for watch in bucket)

    # Writes

    def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        """As KubeApi.create."""
        body = copied(body)
        meta = body.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = f"{meta['generateName']}{next(self._numbers):05d}"
        key = self._key(resource, meta)
        if key in self._table(resource).objects:
            raise AlreadyExistsError(f"create {resource} {_name(key)}: already exists")
        for absent in ("deletionTimestamp", "managedFields", "resourceVersion"):
            meta.pop(absent, None)
        meta |= {"uid": self._new_uid(), "creationTimestamp": self._timestamp()}
        if resource.plural not in _WITHOUT_GENERATION:
            meta["generation"] = 1
        if resource.plural in _WITH_STATUS - _STATUS_KEPT_ON_CREATE:
            body.pop("status", None)
        body |= {"apiVersion": resource.api_version, "kind": resource.kind}
        self._uids[meta["uid"]] = (_kind(resource), key)
        return self._commit(resource, key, None, body, _UPDATE)

    def replace(self, resource: Resource, body: JsonObject, *, subresource: str = "") -> JsonObject:
        """As KubeApi.replace."""
        body = copied(body)
        key = self._key(resource, body.get("metadata", {}))
        before = self._existing(resource, key)
        if not body["metadata"].get("resourceVersion"):
            raise RejectedError(f"replace {resource} {_name(key)}: resourceVersion must be given")
        return self._update(resource, key, before, body, subresource, _UPDATE)

    def merge(
        self,
        resource: Resource,
        name: str,
        patch: JsonObject,
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> JsonObject:
        """As KubeApi.merge."""
        key = (namespace, name)
        before = self._existing(resource, key)
        if (
            patch.get("metadata", {}).get("uid", before["metadata"]["uid"])
            != (before["metadata"]["uid"])
        ):
            raise RejectedError(f"patch {resource} {_name(key)}: metadata.uid is immutable")
        body = merge_patched(before, copied(patch))
        return self._update(resource, key, before, copied(body), subresource, _UPDATE)

    def apply(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        manager: str,
        subresource: str = "",
        force: bool = False,
    ) -> JsonObject:
        """As KubeApi.apply; lists are one value except conditions, ownerReferences, finalizers."""
        body = copied(body)
        key = self._key(resource, body.get("metadata", {}))
        table = self._table(resource)
        before = table.objects.get(key)
        if before is None:
            if subresource:
                raise NotFoundError(f"apply {resource} {_name(key)}: not found")
            created = self.create(resource, body)
            table.owned[key] = {path: {manager} for path, _ in leaves(body)}
            return created
        wanted = dict(leaves(body))
        owned = table.owned.setdefault(key, {path: {_UPDATE} for path, _ in leaves(before)})
        _check_owners(f"apply {resource} {_name(key)}", before, wanted, owned, manager, force)
        after = copied(before)
        for path in [p for p, who in owned.items() if manager in who and p not in wanted]:
            if not subresource or path[0] == subresource:
                owned[path].discard(manager)
                if not owned[path]:
                    del owned[path]
                    drop_leaf(after, path)
        for path, value in wanted.items():
            put_leaf(after, path, value)
        result = self._update(resource, key, before, after, subresource, manager)
        for path, value in wanted.items():
            others = owned.get(path, set()) if dict(leaves(before)).get(path) == value else set()
            owned[path] = others | {manager}
        return result

    def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        grace_s: int | None = None,
    ) -> None:
        """As KubeApi.delete; a Pod on a node waits for its node."""
        key = (namespace, name)
        before = self._existing(resource, key)
        meta = before["metadata"]
        if uid and meta["uid"] != uid:
            raise ConflictError(f"delete {resource} {_name(key)}: UID is {meta['uid']}, not {uid}")
        grace = _grace(before, grace_s) if resource.plural == "pods" else 0
        if not grace and not meta.get("finalizers"):
            self._commit(resource, key, before, None, _UPDATE)
        elif "deletionTimestamp" not in meta or grace < meta.get("deletionGracePeriodSeconds", 0):
            after = copied(before)
            after["metadata"]["deletionTimestamp"] = self._timestamp(grace)
            after["metadata"]["deletionGracePeriodSeconds"] = grace
            if "generation" in meta:
                after["metadata"]["generation"] += 1
            self._commit(resource, key, before, after, _UPDATE)

    def served_versions(self, group: str) -> tuple[str, ...]:
        """As KubeApi.served_versions."""
        if not self.served.get(group):
            raise NotFoundError(f"discover {group}: not served")
        return self.served[group]

    def preferred_version(self, group: str) -> str:
        """As KubeApi.preferred_version."""
        return self.served_versions(group)[0]

    def collect_garbage(self) -> int:
        """Delete what has owners but none that exists, and so on. Returns: how many."""
        count = 0
        while True:
            orphans = [
                (kind, key, body)
                for kind, table in self._tables.items()
                for key, body in table.objects.items()
                if "deletionTimestamp" not in body["metadata"] and self._is_orphan(body)
            ]
            if not orphans:
                return count
            for (group, plural), (namespace, name), body in orphans:
                version = body["apiVersion"].rpartition("/")[2]
                resource = Resource(group, version, plural, body["kind"], bool(namespace))
                self.delete(resource, name, namespace=namespace, uid=body["metadata"]["uid"])
                count += 1

    # Misbehaviour

    def drop_watches(self, error: Exception | None = None) -> None:
        """End every watch: as a server does, or with an error as a broken connection does."""
        dropped, self._watches = self.open_watches, {}
        for watch in dropped:
            watch.end(error)

    def send_bookmarks(self) -> None:
        """Tell every watch the current version."""
        for watch in self.open_watches:
            watch.bookmark(self.version)

    def compact(self) -> None:
        """Forget all history: watches from an older version get 410, as do continue tokens."""
        for table in self._tables.values():
            table.history.clear()
            table.expired_before = self.version

    def backup(self) -> tuple[int, dict[Kind, dict[Key, JsonObject]]]:
        """What `restore` goes back to."""
        return self.version, {kind: dict(table.objects) for kind, table in self._tables.items()}

    def restore(self, backup: tuple[int, dict[Kind, dict[Key, JsonObject]]]) -> None:
        """Go back to a backup, as an etcd restore does: versions are used twice, watches break."""
        self.version, tables = backup
        for kind, table in self._tables.items():
            table.objects = dict(tables.get(kind, {}))
            table.history.clear()
            table.expired_before = 0
        self._uids = {
            body["metadata"]["uid"]: (kind, key)
            for kind, table in self._tables.items()
            for key, body in table.objects.items()
        }
        self.drop_watches(UnavailableError("watch: connection reset"))

    # Inside

    def _update(
        self,
        resource: Resource,
        key: Key,
        before: JsonObject,
        body: JsonObject,
        subresource: str,
        manager: str,
    ) -> JsonObject:
        old = before["metadata"]
        _check_identity(f"write {resource} {_name(key)}", old, body["metadata"])
        if subresource:
            body = {**before, subresource: body.get(subresource)}
            if body[subresource] is None:
                del body[subresource]
        elif resource.plural in _WITH_STATUS:
            body.pop("status", None)
            if "status" in before:
                body["status"] = before["status"]
        body = copied(body)
        meta = body["metadata"]
        for name in _SERVER_OWNED:
            meta.pop(name, None)
            if name in old:
                meta[name] = old[name]
        meta["resourceVersion"] = old["resourceVersion"]
        if "deletionTimestamp" in old and set(meta.get("finalizers") or ()) - set(
            old.get("finalizers") or ()
        ):
            raise RejectedError(f"write {resource} {_name(key)}: no new finalizers while deleting")
        if "generation" in old and _desired(body, resource) != _desired(before, resource):
            meta["generation"] = old["generation"] + 1
        body |= {"apiVersion": resource.api_version, "kind": resource.kind}
        if body == {**before, "apiVersion": resource.api_version}:
            return self._shown(resource, before)
        is_gone = (
            "deletionTimestamp" in old
            and not meta.get("finalizers")
            and not old.get("deletionGracePeriodSeconds")
        )
        return self._commit(resource, key, before, None if is_gone else body, manager)

    def _commit(
        self,
        resource: Resource,
        key: Key,
        before: JsonObject | None,
        after: JsonObject | None,
        manager: str,
    ) -> JsonObject:
        self.version += 1
        table = self._table(resource)
        if after is None:
            gone = table.objects.pop(key)
            table.owned.pop(key, None)
            self._uids.pop(gone["metadata"]["uid"], None)
        else:
            after["metadata"]["resourceVersion"] = str(self.version)
            table.objects[key] = after
            if key in table.owned:
                _note_owners(table.owned[key], before, after, manager)
        change = _Change(self.version, before, after)
        if len(table.history) == self._history_limit:
            table.expired_before = table.history.popleft().version
        table.history.append(change)
        for watch in self._interested(resource, change):
            watch.offer(change)
        return self._shown(resource, after or before or {})

    def _interested(self, resource: Resource, change: _Change) -> Iterator[FakeWatch]:
        kind = _kind(resource)
        buckets = {(kind, "", "")}
        for path in self._fields.get(kind, ()):
            for body in (change.before, change.after):
                if body is not None:
                    buckets.add((kind, path, field_text(body, path)))
        for bucket in sorted(buckets):
            yield from list(self._watches.get(bucket, ()))

    def _bucket(self, watch: FakeWatch) -> tuple[Kind, str, str]:
        """Watches of one field's value are found by it, so that thousands of nodes cost little."""
        kind = _kind(watch.resource)
        path, _, value = watch.fields.partition("=")
        if not value or any(mark in watch.fields for mark in (",", "!", "==")):
            return kind, "", ""
        self._fields.setdefault(kind, Counter())[path] = 1
        return kind, path, value

    def _is_orphan(self, body: JsonObject) -> bool:
        owners = body["metadata"].get("ownerReferences") or []
        return bool(owners) and not any(owner["uid"] in self._uids for owner in owners)

    def _table(self, resource: Resource) -> _Table:
        if resource.version not in self.served.get(resource.group, (resource.version,)):
            raise NotFoundError(f"{resource} {resource.version}: not served")
        kind = _kind(resource)
        if kind not in self._tables:
            self._tables[kind] = _Table(deque())
        return self._tables[kind]

    def _existing(self, resource: Resource, key: Key) -> JsonObject:
        found = self._table(resource).objects.get(key)
        if found is None:
            raise NotFoundError(f"{resource} {_name(key)}: not found")
        return found

    def _key(self, resource: Resource, meta: JsonObject) -> Key:
        if not meta.get("name") or bool(meta.get("namespace")) is not resource.is_namespaced:
            raise RejectedError(f"{resource} {meta.get('name')!r}: name or namespace is wrong")
        return meta.get("namespace", ""), meta["name"]

    @staticmethod
    def _shown(resource: Resource, body: JsonObject) -> JsonObject:
        shown = copied(body)
        shown["apiVersion"] = resource.api_version
        return shown

    def _timestamp(self, after_s: float = 0) -> str:
        return f"{self._now() + timedelta(seconds=after_s):%Y-%m-%dT%H:%M:%SZ}"

    def _next_uid(self) -> str:
        return f"00000000-0000-4000-8000-{next(self._numbers):012d}"


def _kind(resource: Resource) -> Kind:
    return resource.group, resource.plural


def _name(key: Key) -> str:
    return "/".join(filter(None, key))


def _selects(body: JsonObject, namespace: str, labels: str, fields: str) -> bool:
    return (
        (not namespace or body["metadata"].get("namespace") == namespace)
        and matches_labels(body, labels)
        and matches_fields(body, fields)
    )


def _read_page(page: str) -> tuple[int, Key]:
    try:
        version, key = page.split(" ")
        namespace, name = key.split("/")
        return int(version), (namespace, name)
    except ValueError as exc:
        raise PeerError(f"list: the continue token {page!r} is none of this server") from exc


def _desired(body: JsonObject, resource: Resource) -> JsonObject:
    apart = {"metadata", "status"} if resource.plural in _WITH_STATUS else {"metadata"}
    return {name: value for name, value in body.items() if name not in apart | {"apiVersion"}}


def _grace(pod: JsonObject, grace_s: int | None) -> int:
    is_done = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if is_done or not pod.get("spec", {}).get("nodeName"):
        return 0
    default = pod["spec"].get("terminationGracePeriodSeconds", 30)
    return int(default if grace_s is None else grace_s)


def _check_identity(what: str, old: JsonObject, new: JsonObject) -> None:
    if new.get("uid", old["uid"]) != old["uid"]:
        raise ConflictError(f"{what}: UID is {old['uid']}, not {new['uid']}")
    version = new.get("resourceVersion")
    if version and version != old["resourceVersion"]:
        raise ConflictError(f"{what}: version is {old['resourceVersion']}, not {version}")


def _check_owners(
    what: str,
    before: JsonObject,
    wanted: dict[Path, Any],
    owned: dict[Path, set[str]],
    manager: str,
    force: bool,
) -> None:
    present = dict(leaves(before))
    for path, value in wanted.items():
        others = owned.get(path, set()) - {manager}
        if others and not force and present.get(path) != value:
            raise ConflictError(f"{what}: {'.'.join(path)} is managed by {sorted(others)}")


def _note_owners(
    owned: dict[Path, set[str]], before: JsonObject | None, after: JsonObject, manager: str
) -> None:
    old, new = dict(leaves(before or {})), dict(leaves(after))
    for path in _changed(old, new):
        if path in new:
            owned[path] = {manager}
        else:
            owned.pop(path, None)


def _changed(old: dict[Path, Any], new: dict[Path, Any]) -> Iterable[Path]:
    return [path for path in {**old, **new} if old.get(path, ...) != new.get(path, ...)]
