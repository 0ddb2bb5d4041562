"""Define what all Kubernetes objects have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

JsonObject = dict[str, Any]


class Camel(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of the API's types: camelCase members; unknown ones belong to newer servers."""


class OwnerReference(Camel, frozen=True):
    """Who owns an object."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Camel, frozen=True):
    """The part of an object's metadata that is read here."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None
    finalizers: tuple[str, ...] | None = None

    def label(self, key: str) -> str:
        """A label's value, empty if absent."""
        return (self.labels or {}).get(key, "")

    def annotation(self, key: str) -> str:
        """An annotation's value, empty if absent."""
        return (self.annotations or {}).get(key, "")

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that controls it."""
        return next((owner for owner in self.owner_references or () if owner.controller), None)

    @property
    def is_terminating(self) -> bool:
        """Somebody asked for its deletion."""
        return self.deletion_timestamp is not None


class TypedReference(Camel, frozen=True):
    """A namespace-local reference."""

    api_group: str = ""
    kind: str = ""
    name: str = ""


class Condition(Camel, frozen=True):
    """One condition. status: "True", "False" or "Unknown"."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: datetime | None = None
