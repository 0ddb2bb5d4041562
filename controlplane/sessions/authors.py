"""Find out who calls the HTTP endpoint."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from controlplane.api.meta import JsonObject
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import Resource

TOKEN_REVIEWS: Final = Resource(
    "authentication.k8s.io", "v1", "tokenreviews", "TokenReview", is_namespaced=False
)
_KEPT: Final = 1024
_KEPT_S: Final = 60.0
_TOKEN_MAX: Final = 16 * 1024
# Anybody who reaches the port can make us ask.
_AT_ONCE: Final = 8


class TokenReviewer:
    """Asks the API server whose a bearer token is; remembers the answer for a minute.

    Args: clock: monotonic seconds. audience: what tokens must be for; empty: the API server's own.
    """

    def __init__(self, api: KubeApi, clock: Callable[[], float], audience: str = "") -> None:
        self._api = api
        self._clock = clock
        self._audience = audience
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._known: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    async def user(self, authorization: str) -> str:
        """The user name behind an Authorization header, empty if there is none.

        Raises: ControlPlaneError if the API server cannot be asked.
        """
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _TOKEN_MAX:
            return ""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        until, user = self._known.get(digest, (0.0, ""))
        if user and self._clock() < until:
            return user
        async with self._slots:
            review = await self._api.create(TOKEN_REVIEWS, self._review(token))
        user = _user_of(review, self._audience)
        self._remember(digest, user)
        return user

    def _review(self, token: str) -> JsonObject:
        spec: JsonObject = {"token": token}
        if self._audience:
            spec["audiences"] = [self._audience]
        return {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": TOKEN_REVIEWS.kind,
            "metadata": {},
            "spec": spec,
        }

    def _remember(self, digest: bytes, user: str) -> None:
        """Refusals are not kept: a token may become valid, and a wrong one costs its sender."""
        self._known.pop(digest, None)
        if user:
            self._known[digest] = (self._clock() + _KEPT_S, user)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)


def _user_of(review: JsonObject, audience: str) -> str:
    status = review.get("status") or {}
    if status.get("authenticated") is not True:
        return ""
    if audience and audience not in (status.get("audiences") or ()):
        return ""
    return str((status.get("user") or {}).get("username") or "")
