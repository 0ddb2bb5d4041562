"""Answer workload managers that ask for a restore intent over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import perf_counter

import msgspec
import structlog

from controlplane.api.core import PodTemplate, SandboxSpec
from controlplane.api.meta import JsonObject
from controlplane.errors import ControlPlaneError
from controlplane.sessions.authors import TokenReviewer
from controlplane.sessions.decision import StartReason, cold
from controlplane.sessions.metrics import SessionMetrics
from controlplane.sessions.mutate import ANSWER_S, FindIntent
from controlplane.sessions.session import SessionStart, session_id_of

_REVIEW_S = 5.0
_log = structlog.get_logger(__name__)


class IntentRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """What a session is about to run; template: a SandboxTemplate's name.

    sandbox_name: what the session's Sandbox will be called, empty if that is not known yet.
    """

    namespace: str
    template: str
    pod_template: PodTemplate
    sandbox_name: str = ""
    volume_claim_templates: tuple[JsonObject, ...] | None = None


class IntentAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """annotations: all that the session's pod template has to say; empty: start cold.

    snapshot_key: the one among them that every provider has; null: start cold.
    """

    snapshot_key: str | None
    reason: StartReason
    annotations: dict[str, str]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer."""

    error: str


_requests = msgspec.json.Decoder(IntentRequest)


class IntentEndpoint:
    """find: the lookup. callers: user names that may ask."""

    def __init__(
        self,
        find: FindIntent,
        reviewer: TokenReviewer,
        metrics: SessionMetrics,
        callers: frozenset[str],
    ) -> None:
        self._find = find
        self._reviewer = reviewer
        self._metrics = metrics
        self._callers = callers

    async def check(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Why the caller may not ask, as an HTTP status with a text; None if it may.

        Comes first: nobody else learns which snapshots there are, nor reads the store.
        """
        try:
            async with asyncio.timeout(_REVIEW_S):
                user = await self._reviewer.user(headers.get("Authorization", ""))
        except (ControlPlaneError, TimeoutError) as exc:
            _log.warning("intent.unreviewed", error=str(exc))
            return 503, "the API server could not be asked whose token this is; start cold"
        if not user:
            return 401, "send a valid bearer token of a service account"
        if user not in self._callers:
            return 403, f"{user!r} may not ask; the operator has to name it as a caller"
        return None

    async def answer(self, body: bytes) -> tuple[int, bytes]:
        """Status with body, to a caller that may ask."""
        try:
            request = _requests.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return 400, refusal(f"read a restore intent request: {exc}")
        decision = cold(StartReason.STORE_TIMEOUT)
        begun = perf_counter()
        try:
            async with asyncio.timeout(ANSWER_S):
                decision = await self._find(_session(request))
        except TimeoutError:
            _log.warning("intent.late", namespace=request.namespace)
        self._metrics.decided(decision, perf_counter() - begun)
        found = IntentAnswer(
            snapshot_key=decision.key, reason=decision.reason, annotations=decision.annotations
        )
        return 200, msgspec.json.encode(found)


def refusal(text: str) -> bytes:
    """A body that says what is wrong."""
    return msgspec.json.encode(Refusal(error=text))


def _session(request: IntentRequest) -> SessionStart:
    spec = SandboxSpec(
        pod_template=request.pod_template, volume_claim_templates=request.volume_claim_templates
    )
    session_id = session_id_of(request.pod_template)
    return SessionStart(request.namespace, request.template, spec, request.sandbox_name, session_id)
