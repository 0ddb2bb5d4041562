"""Define what an artifact store offers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from controlplane.api.manifest import Manifest

_KIND = "SandboxSnapshot"
# What every key matches, as a glob; some that are none of ours match it too.
KEY_PATTERN: Final = f"snapshot:{_KIND}:*"


@dataclass(frozen=True, order=True)
class OwnerKey:
    """Whose manifest. Kubernetes names hold no colon, so the text form is unambiguous."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"snapshot:{_KIND}:{self.namespace}:{self.name}:{self.uid}"

    @classmethod
    def parse(cls, text: str) -> OwnerKey | None:
        """The key of this text, None if it is none of ours (another form shares the prefix)."""
        parts = text.split(":")
        if len(parts) != 5 or parts[:2] != ["snapshot", _KIND] or not all(parts):
            return None
        return cls(*parts[2:])


@dataclass(frozen=True)
class Stored:
    """A manifest as read. version: the exact stored text, never an encoding of `manifest`."""

    manifest: Manifest
    version: str


class ArtifactStore(Protocol):
    """One manifest for each SandboxSnapshot, written by compare-and-set.

    Every method raises UnavailableError when the store cannot be asked or does not answer in time:
    that is never the same as an empty answer. Cancellation: the write may or may not have happened;
    read again.
    """

    async def get(self, key: OwnerKey) -> Stored | None:
        """The manifest, None if there is none. Raises: CorruptError, UnavailableError."""

    async def put(self, key: OwnerKey, manifest: Manifest, version: str | None) -> str:
        """Write if the stored text still equals `version` (None: if there is none).

        Members that this program does not know survive from `version`.
        Returns: the text written, which is the new version.
        Raises: ConflictError, with nothing written; UnavailableError.
        """

    async def delete(self, key: OwnerKey, version: str | None = None) -> None:
        """Remove; absent is success. With a version only if the text still equals it.

        Raises: ConflictError, UnavailableError.
        """

    def list(self) -> AsyncIterator[OwnerKey]:
        """Every key, by cursor. Raises: UnavailableError."""

    async def close(self) -> None:
        """Release connections; repeatable."""
