"""Derive the names of artifacts, build Sandboxes, tasks."""

from __future__ import annotations

import re
from typing import Final

from controlplane.api.keys import digest
from controlplane.api.types import SnapshotMode, TaskOperation

_MAX: Final = 63  # RFC 1123 label; also of a label's value
_OUTSIDE: Final = re.compile(r"[^a-z0-9-]")
_ID_HEX: Final = 10
_SUFFIX_HEX: Final = 16


def normalise_name(name: str) -> str:
    """Lower case, `-` for all that a DNS label cannot hold, no `-` at the ends; may be empty."""
    ascii_lower = "".join(c.lower() if c.isascii() else "-" for c in name)
    return _cut(_OUTSIDE.sub("-", ascii_lower).strip("-"), _MAX)


def snapshot_key(
    namespace: str, name: str, uid: str, mode: SnapshotMode, generation: int, seq: int
) -> str:
    """The name of a set's artifacts: `<name>-<id>-fork-g<generation>-r<seq>`, a DNS label.

    Unique across namespaces, and across a snapshot that is deleted and made again: the id is of
    (namespace, name, uid). The nodes get nothing but this key. name, uid, generation: the
    SandboxSnapshot's own. seq: of the set, from 1.
    """
    tail = f"-{digest(namespace, name, uid)[:_ID_HEX]}-{mode.value.lower()}-g{generation}-r{seq}"
    return (_cut(normalise_name(name), _MAX - len(tail)) or "snap") + tail


def build_sandbox_name(snapshot_name: str, key: str, node_name: str, attempt: int) -> str:
    """The build Sandbox of one attempt; one name for one (key, node, attempt).

    It names a Service too, so it begins with a letter (RFC 1035).
    """
    return _named("build", snapshot_name, "build", snapshot_name, key, node_name, str(attempt))


def task_name(key: str, node_name: str, attempt: int, operation: TaskOperation) -> str:
    """The task of one attempt; one name for one (key, node, attempt, operation)."""
    verb = operation.value.lower()
    return _named(verb, key, verb, key, node_name, str(attempt))


def _named(verb: str, readable: str, *identity: str) -> str:
    """Readable as far as there is room, told apart by the suffix."""
    suffix = f"-{digest(*identity)[:_SUFFIX_HEX]}"
    return _cut(f"{verb}-{normalise_name(readable)}", _MAX - len(suffix)) + suffix


def _cut(text: str, length: int) -> str:
    return text[:length].rstrip("-")
