"""Decide whom a change of a node concerns."""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.api.core import Node
from controlplane.api.manifest import Manifest
from controlplane.api.names import PROVIDER_LABEL_PREFIX
from controlplane.snapshots.draft import artifacts_of

Key = tuple[str, str]  # namespace, name of a SandboxSnapshot


def has_changed(old: Node | None, new: Node | None) -> bool:
    """Something changed that bears on snapshots; heartbeats, images, addresses do not."""
    return _facts(old) != _facts(new)


def providers_of(*nodes: Node | None) -> frozenset[str]:
    """The providers that work on a node, or did before."""
    return frozenset(
        label.removeprefix(PROVIDER_LABEL_PREFIX)
        for node in nodes
        if node is not None
        for label in node.metadata.labels or ()
        if label.startswith(PROVIDER_LABEL_PREFIX)
    )


def _facts(node: Node | None) -> object:
    if node is None:
        return None
    ready = node.ready
    return (
        node.metadata.uid,
        node.metadata.labels,
        node.spec,
        ready is not None and ready.status == "True",
    )


class Holdings:
    """Which snapshots have something on a node, by the manifests read last."""

    def __init__(self) -> None:
        self._nodes: dict[Key, frozenset[str]] = {}
        self._keys: dict[str, set[Key]] = {}

    def learn(self, key: Key, manifest: Manifest | None) -> None:
        """A manifest was read; None: there is none."""
        nodes = frozenset(_nodes_of(manifest)) if manifest is not None else frozenset()
        before = self._nodes.get(key, frozenset())
        for name in before - nodes:
            self._keys[name].discard(key)
            if not self._keys[name]:
                del self._keys[name]
        for name in nodes - before:
            self._keys.setdefault(name, set()).add(key)
        if nodes:
            self._nodes[key] = nodes
        else:
            self._nodes.pop(key, None)

    def of(self, node_name: str) -> frozenset[Key]:
        """The snapshots that have something there."""
        return frozenset(self._keys.get(node_name, ()))


def _nodes_of(manifest: Manifest) -> Iterable[str]:
    for one in (manifest.artifact_sets or {}).values():
        yield from (artifact.node_name for artifact in artifacts_of(one))
    for retired in manifest.retired_sets or ():
        yield from retired.node_names or ()
