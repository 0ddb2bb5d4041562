"""Give new Sandboxes their restore intent (mutating admission).

What an author wrote is never believed: the intent is computed anew for whatever will start a Pod.
An answer always comes, it always admits, and without a lookup it still takes foreign intents out.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final

import msgspec
import structlog

from controlplane.api.core import Sandbox
from controlplane.api.meta import JsonObject
from controlplane.errors import RejectedError
from controlplane.sessions.decision import Decision, StartReason, cold
from controlplane.sessions.metrics import BadReview, SessionMetrics
from controlplane.sessions.patch import plan_build_patch, plan_keep_patch, plan_session_patch
from controlplane.sessions.review import (
    AdmissionRequest,
    Operation,
    PatchStep,
    allow,
    read_review,
)
from controlplane.sessions.session import SessionStart, is_build, session_of

# The lookup has a budget of its own, well below this; API servers are told to wait a second.
ANSWER_S: Final = 0.8

FindIntent = Callable[[SessionStart], Awaitable[Decision]]

_log = structlog.get_logger(__name__)


class SandboxMutator:
    """find: the lookup. controllers: user names that may mark builds for a provider."""

    def __init__(
        self, find: FindIntent, metrics: SessionMetrics, controllers: frozenset[str]
    ) -> None:
        self._find = find
        self._metrics = metrics
        self._controllers = controllers

    async def answer(self, body: bytes) -> bytes:
        """The AdmissionReview that answers this one; it always admits."""
        try:
            request = read_review(body)
        except RejectedError as exc:
            self._metrics.bad_review(BadReview.MALFORMED)
            _log.warning("admission.malformed", error=str(exc))
            return allow("")
        handling = classify_request(request)
        if request.object is None or handling is Handling.PASS:
            return allow(request.uid)
        if handling is Handling.KEEP:
            return allow(request.uid, plan_keep_patch(request.object, request.old_object or {}))
        return allow(request.uid, await self._patch(request, request.object))

    async def _patch(self, request: AdmissionRequest, body: JsonObject) -> tuple[PatchStep, ...]:
        try:
            sandbox = msgspec.convert(body, Sandbox)
        except msgspec.ValidationError as exc:
            self._metrics.bad_review(BadReview.MALFORMED)
            _log.warning("admission.unreadable", namespace=request.namespace, error=str(exc))
            return plan_session_patch(body, cold(StartReason.NO_SNAPSHOT))
        if is_build(sandbox):
            is_trusted = request.user_info.username in self._controllers
            return plan_build_patch(body, is_trusted=is_trusted)
        return plan_session_patch(body, await self._decide(session_of(sandbox, request.namespace)))

    async def _decide(self, session: SessionStart) -> Decision:
        begun = perf_counter()
        try:
            async with asyncio.timeout(ANSWER_S):
                decision = await self._find(session)
        except TimeoutError:
            decision = cold(StartReason.STORE_TIMEOUT)
        except Exception as exc:  # a defect must not keep a session from starting
            self._metrics.bad_review(BadReview.DEFECT)
            _log.exception("admission.defect", namespace=session.namespace, error=str(exc))
            decision = cold(StartReason.STORE_ERROR)
        self._metrics.decided(decision, perf_counter() - begun)
        return decision


class Handling(enum.Enum):
    """What is done with a request."""

    PASS = enum.auto()
    DECIDE = enum.auto()
    KEEP = enum.auto()


def classify_request(request: AdmissionRequest) -> Handling:
    """Decide whenever a Pod may start from what this request writes; else keep what was decided.

    On creation always. An update matters when it changes the pod spec, which a Pod that is made
    anew would take over, or when it lets a Sandbox run again. Others, such as a claim taking over a
    pool's Sandbox, meet a Pod that runs: the intent stays as it is.
    """
    is_write = request.operation in (Operation.CREATE, Operation.UPDATE)
    if not is_write or request.sub_resource or request.object is None:
        return Handling.PASS
    if request.operation is Operation.CREATE or request.old_object is None:
        return Handling.DECIDE
    new, old = _member(request.object, "spec"), _member(request.old_object, "spec")
    changed = _member(new, "podTemplate").get("spec") != _member(old, "podTemplate").get("spec")
    return Handling.DECIDE if changed or (not _runs(old) and _runs(new)) else Handling.KEEP


def _member(body: JsonObject, name: str) -> JsonObject:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


def _runs(spec: JsonObject) -> bool:
    """v1alpha1 says replicas, v1beta1 operatingMode."""
    return spec.get("replicas") != 0 and spec.get("operatingMode") != "Suspended"
