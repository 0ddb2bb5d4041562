"""Translate between a manifest and its stored text.

The text may come from an older or newer program: what this one does not know of it survives a
write. Unknown members of a set, an artifact, a retired set go where that set or artifact goes, and
vanish with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from controlplane.api.manifest import (
    SCHEMA_VERSION,
    Artifact,
    ArtifactSet,
    Manifest,
    RetiredSet,
    Retry,
    SetReference,
)
from controlplane.api.meta import Camel, JsonObject, OwnerReference
from controlplane.api.types import SandboxSnapshot
from controlplane.errors import ConflictError, CorruptError, InvariantError
from controlplane.store.store import OwnerKey, Stored

# 5,000 nodes take 4 MiB in two sets. A store's own limit is far above: 512 MiB in Redis.
TEXT_MAX_BYTES: Final = 16 * 1024 * 1024

_DECODER: Final = msgspec.json.Decoder(Manifest)


def decode(key: OwnerKey, raw: bytes) -> Stored:
    """Read a stored text.

    Null, `{}`, "" and an absent member are alike. Raises: CorruptError, also for a text of a newer
    schema, and for one that contradicts itself.
    """
    try:
        text = _decode_text(raw)
        manifest = _parse(text)
        _check(manifest)
    except (ValueError, RecursionError, msgspec.MsgspecError) as exc:
        raise CorruptError(
            f"the manifest stored under {key} cannot be used: {exc}",
            hint="it is left as it is; repair it, or delete it to have all artifacts built anew",
        ) from exc
    return Stored(manifest, text)


def encode(key: OwnerKey, manifest: Manifest, version: str | None) -> str:
    """Write a manifest over the text `version`, whose unknown members survive; None: over nothing.

    Raises: ConflictError if `version` is no text that was ever read here; InvariantError for a
    manifest that could not be read again.
    """
    try:
        _check(manifest)
        merged = msgspec.to_builtins(manifest)
        _merge(merged, {} if version is None else _parse_version(key, version), _MANIFEST)
        raw = msgspec.json.encode(merged)
        if len(raw) > TEXT_MAX_BYTES:
            raise ValueError(f"{len(raw)} bytes are too large, at most {TEXT_MAX_BYTES} can be")
    except (ValueError, RecursionError) as exc:
        raise InvariantError(f"refusing to store the manifest of {key}: {exc}") from exc
    return raw.decode()


def check_owner(stored: Stored, snapshot: SandboxSnapshot) -> None:
    """See that a manifest is this snapshot's; one without an owner is, by its key.

    Raises: CorruptError if it says that it is another's.
    """
    owner, metadata = stored.manifest.owner_ref, snapshot.metadata
    if owner is None or owner == OwnerReference():
        return
    if (owner.kind, owner.name, owner.uid) != ("SandboxSnapshot", metadata.name, metadata.uid):
        raise CorruptError(
            f"the manifest of SandboxSnapshot {metadata.namespace}/{metadata.name} (UID "
            f"{metadata.uid}) names as its owner {owner.kind} {owner.name} (UID {owner.uid})",
            hint="it is not used; find out who wrote it, then delete it from the store",
        )


def _decode_text(raw: bytes) -> str:
    if len(raw) > TEXT_MAX_BYTES:
        raise ValueError(f"it has {len(raw)} bytes, more than {TEXT_MAX_BYTES}")
    return raw.decode()


def _parse_version(key: OwnerKey, version: str) -> JsonObject:
    try:
        known = msgspec.json.decode(version)
    except msgspec.ValidationError:  # a number that no float can hold; a ValueError
        raise
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ConflictError(f"{key}: the version to write over is no manifest: {exc}") from exc
    return known if isinstance(known, dict) else {}


def _parse(text: str) -> Manifest:
    """The usual text at once; one with nulls or empty strings in a second try."""
    try:
        return _DECODER.decode(text)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nothing(msgspec.json.decode(text)), Manifest)


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: _without_nothing(one) for name, one in value.items()}
        return {name: one for name, one in kept.items() if one is not None and one != ""}
    return [_without_nothing(one) for one in value] if isinstance(value, list) else value


def _check(manifest: Manifest) -> None:
    if manifest.schema_version > SCHEMA_VERSION:
        raise ValueError(
            f"its schemaVersion is {manifest.schema_version}, this program knows {SCHEMA_VERSION}"
        )
    for name, artifact_set in (manifest.artifact_sets or {}).items():
        _check_set(name, artifact_set)


def _check_set(name: str, artifact_set: ArtifactSet) -> None:
    if not name or artifact_set.snapshot_key != name:
        raise ValueError(f"set {name!r} calls itself {artifact_set.snapshot_key!r}")
    identity = (artifact_set.snapshot_key, artifact_set.snapshot_hash)
    artifacts = artifact_set.artifacts or ()
    for one in artifacts:
        if (one.snapshot_key, one.snapshot_hash) != identity:
            raise ValueError(f"set {name!r} holds {one.node_name!r}'s artifact of another set")
    node, count = next(iter(Counter(a.node_name for a in artifacts).most_common(1)), ("", 0))
    if count > 1:
        raise ValueError(f"set {name!r} holds {count} artifacts of node {node!r}")


def _merge(ours: JsonObject, known: Mapping[str, Any], shape: _Shape) -> None:
    """Add to ours the members of `known` that this program has no name for, at every level."""
    for name in known.keys() - shape.names:
        ours[name] = known[name]
    for child in shape.children:
        mine, theirs = ours.get(child.name), known.get(child.name)
        if mine is not None and theirs:
            for one, counterpart in child.pairs(mine, theirs):
                _merge(one, counterpart, child.shape)


_Pairs = Iterator[tuple[JsonObject, Mapping[str, Any]]]


def _pair_objects(mine: JsonObject, theirs: Any) -> _Pairs:
    if isinstance(theirs, dict):
        yield mine, theirs


def _pair_references(mine: JsonObject, theirs: Any) -> _Pairs:
    """What is said of a reference is said of the set it names."""
    if isinstance(theirs, dict) and theirs.get("snapshotKey") == mine.get("snapshotKey"):
        yield mine, theirs


def _pair_members(mine: JsonObject, theirs: Any) -> _Pairs:
    """Of a map, by their keys."""
    if isinstance(theirs, dict):
        for key, one in mine.items():
            yield from _pair_objects(one, theirs.get(key))


def _pair_artifacts(mine: list[JsonObject], theirs: Any) -> _Pairs:
    """Of a list, each by its node and key."""
    return _pair_items(mine, theirs, ("nodeName", "snapshotKey"))


def _pair_retired(mine: list[JsonObject], theirs: Any) -> _Pairs:
    return _pair_items(mine, theirs, ("snapshotKey", "providerName"))


def _pair_items(mine: list[JsonObject], theirs: Any, identity: tuple[str, str]) -> _Pairs:
    first, second = identity
    items = theirs if isinstance(theirs, list) else ()
    known = {
        (str(one.get(first) or ""), str(one.get(second) or "")): one
        for one in items
        if isinstance(one, dict)
    }
    for one in mine:
        yield from _pair_objects(one, known.get((one.get(first, ""), one.get(second, ""))))


@dataclass(frozen=True)
class _Child:
    """A member that holds objects of a type of ours. pairs: each with its counterpart."""

    name: str
    pairs: Callable[[Any, Any], _Pairs]
    shape: _Shape


@dataclass(frozen=True)
class _Shape:
    """A type's members by name; those that hold objects."""

    names: frozenset[str]
    children: tuple[_Child, ...] = ()


def _shape(kind: type[Camel], *children: _Child) -> _Shape:
    names = frozenset(field.encode_name for field in msgspec.structs.fields(kind))
    return _Shape(names, children)


_REFERENCE: Final = _shape(SetReference)
_ARTIFACT: Final = _shape(Artifact, _Child("retry", _pair_objects, _shape(Retry)))
_SET: Final = _shape(ArtifactSet, _Child("artifacts", _pair_artifacts, _ARTIFACT))
_MANIFEST: Final = _shape(
    Manifest,
    _Child("ownerRef", _pair_objects, _shape(OwnerReference)),
    _Child("activeSetRef", _pair_references, _REFERENCE),
    _Child("pendingSetRef", _pair_references, _REFERENCE),
    _Child("artifactSets", _pair_members, _SET),
    _Child("retiredSets", _pair_retired, _shape(RetiredSet)),
)
