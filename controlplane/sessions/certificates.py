"""Decide when the webhooks' certificates are made anew.

The authority signs the serving certificate; API servers trust the bundle. A new authority is put
into the bundle first and signs nothing until every API server has had time to learn of it; the old
one stays in the bundle until it expires. So no handshake fails while one replaces the other.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

AUTHORITY_LIFE: Final = timedelta(days=365)
SERVING_LIFE: Final = timedelta(days=30)
# A new authority rests this long in the bundle before it signs.
SETTLE: Final = timedelta(hours=1)
# Certificates begin this much before they are made: clocks of API servers may be behind.
SKEW: Final = timedelta(hours=1)
LOOK_AGAIN: Final = timedelta(minutes=10)


@dataclass(frozen=True)
class Certificate:
    """What is decided on. names: DNS names it is for. identity: tells it from any other.

    issuer: identity of the authority that signed it, its own if that is itself.
    """

    identity: str
    issuer: str
    not_before: datetime
    not_after: datetime
    names: frozenset[str] = frozenset()

    def is_worn(self, now: datetime) -> bool:
        """Two thirds of its life are over, or it has not begun."""
        life = self.not_after - self.not_before
        return now >= self.not_after - life / 3 or now < self.not_before


@dataclass(frozen=True)
class ObservedCertificates:
    """What the Secret holds; None: absent or unreadable. bundle: every authority trusted."""

    authority: Certificate | None = None
    coming: Certificate | None = None
    serving: Certificate | None = None
    bundle: tuple[Certificate, ...] = ()


class CertificateStep(enum.StrEnum):
    """One change, in the order in which they are made."""

    MAKE_AUTHORITY = "make_authority"
    PROMOTE_COMING = "promote_coming"
    MAKE_COMING = "make_coming"
    MAKE_SERVING = "make_serving"
    TRIM_BUNDLE = "trim_bundle"


@dataclass(frozen=True)
class CertificatePlan:
    """steps: empty when all is well. next_look: when something is due, if nobody interferes."""

    steps: tuple[CertificateStep, ...]
    next_look: datetime


def plan_certificates(
    observed: ObservedCertificates, now: datetime, dns_names: frozenset[str]
) -> CertificatePlan:
    """What to do about the certificates now. Pure; the same for every replica."""
    state = _drop_expired(observed, now)
    steps, state = _plan_authority(state, now)
    if not _is_serving_good(state, now, dns_names):
        steps.append(CertificateStep.MAKE_SERVING)
    if any(now >= one.not_after for one in observed.bundle):
        steps.append(CertificateStep.TRIM_BUNDLE)
    return CertificatePlan(tuple(steps), _next_look(state, now))


def _plan_authority(
    state: ObservedCertificates, now: datetime
) -> tuple[list[CertificateStep], ObservedCertificates]:
    """What to do about the authorities; the state after a promotion, which decides on the rest."""
    authority, coming = state.authority, state.coming
    if authority is None and coming is None:
        return [CertificateStep.MAKE_AUTHORITY], state
    if coming is not None and (authority is None or now >= _settled_at(coming)):
        return [CertificateStep.PROMOTE_COMING], replace(state, authority=coming, coming=None)
    if coming is None and authority is not None and authority.is_worn(now):
        return [CertificateStep.MAKE_COMING], state
    return [], state


def _drop_expired(observed: ObservedCertificates, now: datetime) -> ObservedCertificates:
    """An authority that has expired, or is trusted by nobody, is none."""
    trusted = {one.identity for one in observed.bundle}

    def alive(one: Certificate | None) -> Certificate | None:
        return one if one and now < one.not_after and one.identity in trusted else None

    return replace(observed, authority=alive(observed.authority), coming=alive(observed.coming))


def _settled_at(coming: Certificate) -> datetime:
    return coming.not_before + SKEW + SETTLE


def _is_serving_good(state: ObservedCertificates, now: datetime, dns_names: frozenset[str]) -> bool:
    serving, authority = state.serving, state.authority
    return (
        serving is not None
        and authority is not None
        and serving.issuer == authority.identity
        and serving.not_after <= authority.not_after
        and serving.names == dns_names
        and not serving.is_worn(now)
    )


def _next_look(state: ObservedCertificates, now: datetime) -> datetime:
    """Looking often costs one read, and repairs what others change."""
    due = now + LOOK_AGAIN
    return min(due, _settled_at(state.coming)) if state.coming else due
