"""Keep typed, indexed copies of the objects of one kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from controlplane.api.meta import JsonObject, ObjectMeta
from controlplane.errors import PeerError


class Named(Protocol):
    """Any object of Kubernetes."""

    @property
    def metadata(self) -> ObjectMeta:
        """Its name, its versions."""


T = TypeVar("T", bound=Named)
Key = tuple[str, str]  # namespace (empty if cluster-scoped), name
_Values = dict[str, tuple[str, ...]]  # by an index's name


@dataclass(frozen=True)
class Changed(Generic[T]):
    """old: None if it was not there. new: None if it is gone."""

    key: Key
    old: T | None
    new: T | None


@dataclass(frozen=True)
class Undecodable:
    """An object that does not fit the type; the copy from before, if any, is kept."""

    key: Key
    uid: str
    message: str


class ObjectCache(Generic[T]):
    """The copies. Not for concurrent threads.

    Args: type_: what bodies are converted to. indexers: by an index's name, the values under which
    an object is found.
    """

    def __init__(
        self, type_: type[T], indexers: Mapping[str, Callable[[T], Iterable[str]]] | None = None
    ) -> None:
        self._type = type_
        self._indexers = dict(indexers or {})
        self._objects: dict[Key, T] = {}
        self._indexes: dict[str, dict[str, dict[Key, None]]] = {name: {} for name in self._indexers}
        self._values: dict[Key, _Values] = {}
        self.undecodable: dict[Key, Undecodable] = {}

    def get(self, name: str, namespace: str = "") -> T | None:
        """One object."""
        return self._objects.get((namespace, name))

    def all(self) -> tuple[T, ...]:
        """All, as of now."""
        return tuple(self._objects.values())

    def by_index(self, index: str, value: str) -> tuple[T, ...]:
        """Those that an indexer puts under a value, as of now."""
        return tuple(self._objects[key] for key in self._indexes[index].get(value, ()))

    def put(self, body: JsonObject) -> tuple[Changed[T], ...]:
        """Take in an object. Returns: what changed; a re-created one is gone, then there."""
        key = key_of(body)
        new = self._decode(key, body)
        if new is None:
            return ()
        old = self._objects.get(key)
        if old is not None and old.metadata.uid != new[0].metadata.uid:
            gone = self._remove(key, old)
            return (gone, self._store(key, None, *new))
        if old is not None and old.metadata.resource_version == new[0].metadata.resource_version:
            return ()
        return (self._store(key, old, *new),)

    def drop(self, key: Key) -> tuple[Changed[T], ...]:
        """Forget an object."""
        self.undecodable.pop(key, None)
        old = self._objects.get(key)
        return () if old is None else (self._remove(key, old),)

    def replace(self, bodies: Iterable[JsonObject]) -> tuple[Changed[T], ...]:
        """Take in a whole list: what is not in it is gone."""
        found = {key_of(body): body for body in bodies}
        known = {**self._objects, **self.undecodable}
        changes = [change for key in known if key not in found for change in self.drop(key)]
        for body in found.values():
            changes += self.put(body)
        return tuple(changes)

    def _decode(self, key: Key, body: JsonObject) -> tuple[T, _Values] | None:
        """The object with its index values; an indexer that fails counts as a misfit."""
        try:
            decoded = msgspec.convert(body, type=self._type, strict=False)
            values = {name: tuple(f(decoded)) for name, f in self._indexers.items()}
        except Exception as exc:
            uid = str(body["metadata"].get("uid", ""))
            self.undecodable[key] = Undecodable(key, uid, f"{type(exc).__name__}: {exc}")
            return None
        self.undecodable.pop(key, None)
        return decoded, values

    def _store(self, key: Key, old: T | None, new: T, values: _Values) -> Changed[T]:
        if self._values.get(key) != values:
            self._unindex(key)
            for index, found in values.items():
                for value in found:
                    self._indexes[index].setdefault(value, {})[key] = None
            self._values[key] = values
        self._objects[key] = new
        return Changed(key, old, new)

    def _remove(self, key: Key, old: T) -> Changed[T]:
        self._unindex(key)
        del self._objects[key]
        return Changed(key, old, None)

    def _unindex(self, key: Key) -> None:
        for index, found in self._values.pop(key, {}).items():
            entries = self._indexes[index]
            for value in set(found):
                entries[value].pop(key)
                if not entries[value]:
                    del entries[value]


def key_of(body: JsonObject) -> Key:
    """An object's key. Raises: PeerError if it has none."""
    meta: dict[str, Any] = body.get("metadata") or {}
    name, namespace = meta.get("name"), meta.get("namespace") or ""
    if not isinstance(name, str) or not name or not isinstance(namespace, str):
        raise PeerError(f"an object without a name: {str(body)[:200]}")
    return namespace, name
