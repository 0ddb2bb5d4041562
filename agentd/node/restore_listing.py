"""List a sandboxer's sandboxes for all who wait, seldom, never while a snapshot is made.

The sandboxer answers such a list only once a snapshot that is being made is done, and starts no Pod
meanwhile. So a list is short of patience, one serves everybody, and whoever makes snapshots goes
first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from agentd.errors import ErrorCode, SnapStartError, TransientError
from agentd.kuasar.client import KuasarAccess, KuasarClient
from agentd.node.restore_evidence import Listing, Result, Verdict, index, judge, judge_failure

# Between two lists; a burst of Pods shares one.
ROUND_S: Final = 3.0
# Giving up frees what a gRPC list holds in the sandboxer, should a stranger's snapshot delay it.
_LIST_S: Final = 5.0


class SandboxListing:
    """Judges Pods by the last list, or by a new one when that is due. clock: monotonic."""

    def __init__(self, access: KuasarAccess, clock: Callable[[], float] = time.monotonic) -> None:
        self._access = access
        self._clock = clock
        self._asking = asyncio.Lock()
        self._asked_at_s = -ROUND_S
        self._answer: Listing | Verdict = Listing({})

    async def judge(self, uid: str, *, anew: bool = False) -> Verdict | None:
        """How a Pod started. Returns: None while a snapshot is made, so that nothing can be asked.

        An older list that has the Pod will do, since how a sandbox began never changes. anew: it
        will not, because the Pod may have got another sandbox. Cancellation: ends a list under way.
        """
        verdict = self._judged(uid)
        if verdict.result is not Result.UNKNOWN and not anew:
            return verdict
        async with self._asking:
            if self._clock() - self._asked_at_s >= ROUND_S and not await self._ask():
                return None
        return self._judged(uid)

    def _judged(self, uid: str) -> Verdict:
        return self._answer if isinstance(self._answer, Verdict) else judge(uid, self._answer)

    async def _ask(self) -> bool:
        try:
            client = await self._access.client()
        except SnapStartError as exc:
            self._take(judge_failure(exc))
            return True
        async with self._turn() as is_ours:
            if is_ours:
                self._take(await _list(client))
        return is_ours

    def _take(self, answer: Listing | Verdict) -> None:
        self._answer, self._asked_at_s = answer, self._clock()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        """Had at once or not at all: whoever makes snapshots may be next."""
        turn = self._access.turn
        try:
            async with asyncio.timeout(0):
                await turn.acquire()
        except TimeoutError:
            yield False
            return
        try:
            yield True
        finally:
            turn.release()


async def _list(client: KuasarClient) -> Listing | Verdict:
    try:
        async with asyncio.timeout(_LIST_S):
            return index(await client.sandboxes())
    except SnapStartError as exc:
        return judge_failure(exc)
    except TimeoutError:
        error = TransientError(
            ErrorCode.DEADLINE_EXCEEDED,
            f"listing sandboxes: the sandboxer did not answer within {_LIST_S:g} s",
            hint="somebody else may be making a snapshot",
        )
        return judge_failure(error)
