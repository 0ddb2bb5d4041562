"""Judge whether the session path can do its work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from controlplane.errors import ControlPlaneError, CorruptError
from controlplane.health import PartState, Readiness
from controlplane.kube.informer import Informer
from controlplane.sessions.serving import ServingContext
from controlplane.store.store import ArtifactStore, OwnerKey

_PROBE_EVERY_S: Final = 10.0
_PROBE_S: Final = 2.0
# Of a snapshot that cannot be: UIDs have another form.
_NOBODY: Final = OwnerKey("snapstart", "readiness", "probe")


def judge_watches(informers: Sequence[Informer[Any]]) -> PartState:
    """Without a first list sessions would start cold for no reason; with an old one they do not."""
    missing = [str(one.resource) for one in informers if not one.has_synced]
    if missing:
        return PartState(Readiness.NOT_READY, f"not listed yet: {', '.join(missing)}")
    failing = [one for one in informers if one.last_error is not None]
    if failing:
        detail = f"what is known grows old: {failing[0].resource}: {failing[0].last_error}"
        return PartState(Readiness.DEGRADED, detail)
    return PartState(Readiness.READY, f"{len(informers)} kinds are followed")


def judge_certificate(serving: ServingContext, now: datetime) -> PartState:
    """API servers accept no other; this replica's own, so the other one may still have one."""
    if not serving.is_loaded or serving.not_after is None:
        return PartState(Readiness.NOT_READY, "there is none yet")
    if now >= serving.not_after:
        return PartState(Readiness.NOT_READY, f"it ended {serving.not_after:%Y-%m-%d %H:%M}")
    return PartState(Readiness.READY, f"valid until {serving.not_after:%Y-%m-%d %H:%M}")


class StoreProbe:
    """Asks the store every few seconds, so that looking at it takes no time.

    Losing it degrades: all replicas share it, and sessions start cold meanwhile.
    """

    def __init__(
        self,
        store: ArtifactStore | None,
        every_s: float = _PROBE_EVERY_S,
        probe_s: float = _PROBE_S,
    ) -> None:
        self._store = store
        self._every_s = every_s
        self._probe_s = probe_s
        self._problem = "it was not asked yet"

    def look(self) -> PartState:
        """As the last answer was."""
        if self._store is None:
            return PartState(Readiness.DEGRADED, "none is configured: sessions start cold")
        if self._problem:
            return PartState(Readiness.DEGRADED, self._problem)
        return PartState(Readiness.READY, "it answers")

    async def run(self) -> None:
        """Until cancelled."""
        while self._store is not None:
            self._problem = await self._ask(self._store)
            await asyncio.sleep(self._every_s)

    async def _ask(self, store: ArtifactStore) -> str:
        try:
            async with asyncio.timeout(self._probe_s):
                await store.get(_NOBODY)
        except CorruptError:
            return ""
        except TimeoutError:
            return f"no answer within {self._probe_s:g} s"
        except ControlPlaneError as exc:
            return str(exc)
        return ""
