"""Decide who may hold a Lease.

Clocks of different machines are never compared: a holder is taken for dead when its Lease has not
changed for its duration on the *local* clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from controlplane.api.core import Lease, LeaseSpec
from controlplane.api.meta import JsonObject, OwnerReference
from controlplane.errors import PeerError
from controlplane.kube.resource import LEASES


@dataclass(frozen=True)
class LeaseName:
    """Which Lease, and as whom."""

    namespace: str
    name: str
    identity: str


@dataclass(frozen=True)
class ObservedLease:
    """A Lease as read. changed_s: when it was first seen so, on the local monotonic clock."""

    body: JsonObject
    spec: LeaseSpec
    changed_s: float

    @property
    def holder(self) -> str:
        """Empty if it is free."""
        return self.spec.holder_identity or ""

    def is_free_for(self, identity: str, now_s: float) -> bool:
        """It is held by nobody else who still renews it."""
        if self.holder in ("", identity):
            return True
        return now_s >= self.changed_s + (self.spec.lease_duration_seconds or 0)


def observe_lease(before: ObservedLease | None, body: JsonObject, now_s: float) -> ObservedLease:
    """Take in a Lease; what looks as before keeps its time. Raises: PeerError."""
    try:
        spec = msgspec.convert(body, type=Lease, strict=False).spec
    except msgspec.ValidationError as exc:
        raise PeerError(f"a Lease that is none: {exc}") from exc
    is_same = before is not None and before.spec == spec
    return ObservedLease(body, spec, before.changed_s if before and is_same else now_s)


def held_body(
    name: LeaseName,
    observed: ObservedLease | None,
    now: datetime,
    duration_s: int,
    owners: tuple[OwnerReference, ...] = (),
) -> JsonObject:
    """A Lease to create (observed is None), or to replace what was observed, held by us."""
    before = observed.spec if observed else LeaseSpec()
    is_ours = before.holder_identity == name.identity
    transitions = (before.lease_transitions or 0) + (observed is not None and not is_ours)
    acquired = before.acquire_time if is_ours and before.acquire_time else now
    spec = {
        "holderIdentity": name.identity,
        "leaseDurationSeconds": duration_s,
        "acquireTime": micro_time(acquired),
        "renewTime": micro_time(now),
        "leaseTransitions": transitions,
    }
    return _with_spec(name, observed, spec, owners)


def released_body(name: LeaseName, observed: ObservedLease, now: datetime) -> JsonObject:
    """The Lease given back: whoever waits takes it at once."""
    spec = {
        "holderIdentity": "",
        "leaseDurationSeconds": 1,
        "renewTime": micro_time(now),
        "leaseTransitions": observed.spec.lease_transitions or 0,
    }
    return _with_spec(name, observed, spec, ())


def _with_spec(
    name: LeaseName,
    observed: ObservedLease | None,
    spec: JsonObject,
    owners: tuple[OwnerReference, ...],
) -> JsonObject:
    metadata: JsonObject = {"name": name.name, "namespace": name.namespace}
    if observed is not None:
        metadata = {**observed.body["metadata"]}
        metadata.pop("managedFields", None)
        spec = {**observed.body.get("spec", {}), **spec}
    if owners:
        metadata["ownerReferences"] = msgspec.to_builtins(owners)
    kind = {"apiVersion": LEASES.api_version, "kind": LEASES.kind}
    return {**kind, "metadata": metadata, "spec": spec}


def micro_time(at: datetime) -> str:
    """metav1.MicroTime: always six digits after the point. at: UTC."""
    return f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"
