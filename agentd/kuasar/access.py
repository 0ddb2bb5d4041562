"""Hold the way to a node's sandboxer, which may be replaced by another at any time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode, PeerError, SnapStartError, TransientError
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form, KuasarClient
from agentd.kuasar.probe import Probe, Sight, Standing, look_at, probe
from agentd.kuasar.settling import SETTLE_S, Identity, Look, has_settled, remembered
from agentd.kuasar.sharing import Shared
from agentd.kuasar.watched import WatchedClient
from agentd.settings import Kuasar

PROBE_S: Final = 5.0


class SandboxerAccess:
    """Implements `agentd.kuasar.client.KuasarAccess`.

    Args: on_probe: told whenever the standing is another than before, at first too. clock:
    seconds, monotonic. probe_s: for an answer to a probe. settle_s: see `require_settled`.
    """

    def __init__(
        self,
        settings: Kuasar,
        on_probe: Callable[[Probe], None] = lambda found: None,
        clock: Callable[[], float] = time.monotonic,
        *,
        probe_s: float = PROBE_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.turn = asyncio.Lock()
        self._settings = settings
        self._admin = AdminSocket(settings.admin_socket)
        self._on_probe = on_probe
        self._clock = clock
        self._probe_s = probe_s
        self._settle_s = settle_s
        self._standing: Standing | None = None
        self._known: tuple[Identity, KuasarClient] | None = None
        self._finding = Shared(self._find)
        self._look: Look | None = None
        self._settled: Identity | None = None

    async def client(self) -> KuasarClient:
        """See KuasarAccess. Probes unless it is known that the sandboxer is still the same.

        Raises: TransientError PROVIDER_UNREACHABLE, ConfigError PERMISSION_DENIED or
        PROVIDER_UNABLE (older interfaces), PeerError PROVIDER_PROTOCOL.
        Cancellation: ends the probe, unless others wait for it, too.
        """
        if self._known is not None and self._known[0] == self._identity():
            return self._known[1]
        return await self._finding.get()

    async def require_settled(self) -> None:
        """See KuasarAccess. Settled: it serves its container runtime, which it does only then.

        Where that cannot be told: it listed the same sandboxes twice, settle_s apart or more.
        Nothing waits here: each call looks once, and raises until it has seen enough. What has
        settled stays so until a socket is replaced. Raises also: what `client`, `sandboxes` raise.
        """
        identity = self._identity()
        if identity == self._settled:
            return
        if look_at(self._settings.listen_socket).sight is Sight.LISTENS:
            self._settled = identity
            return
        now = await self._look_once(identity)
        is_settled = has_settled(self._look, now, self._settle_s)
        self._look = remembered(self._look, now)
        if not is_settled:
            raise TransientError(
                ErrorCode.PROVIDER_UNREACHABLE,
                f"waiting for the Kuasar sandboxer to know its {len(now.ids)} sandboxes again: it "
                "was started a short time ago",
                hint="this passes",
                delay_s=self._settle_s,
            )
        self._settled = identity

    async def _look_once(self, identity: Identity) -> Look:
        client = await self.client()
        await self._take_turn()
        try:
            begun_s = self._clock()
            ids = frozenset(one.sandbox_id for one in await client.sandboxes())
            return Look(identity, ids, begun_s, self._clock(), begun_s)
        finally:
            self.turn.release()

    async def _take_turn(self) -> None:
        try:
            async with asyncio.timeout(0):
                await self.turn.acquire()
        except TimeoutError:
            raise TransientError(
                ErrorCode.PROVIDER_UNREACHABLE,
                "asking the Kuasar sandboxer for its sandboxes: a snapshot is being made, or "
                "somebody else asks",
                hint="this passes: asked now, it would keep Pods from starting",
                delay_s=self._settle_s,
            ) from None

    async def _find(self) -> KuasarClient:
        """Probe. The sockets are looked at before, so that a change meanwhile is seen later."""
        identity = self._identity()
        self._known = None
        found = await probe(self._admin, self._settings.grpc_socket, deadline_s=self._probe_s)
        if found.standing is not self._standing:
            self._standing = found.standing
            self._on_probe(found)
        form = found.standing.form
        if form is None:
            raise unusable(found)
        client = WatchedClient(self._build(form), self._forget)
        self._known = (identity, client)
        return client

    def _build(self, form: Form) -> KuasarClient:
        """Only here is imported what a form needs."""
        create_s = self._settings.create_s
        if form is Form.GRPC:
            from agentd.kuasar.ssi import Ssi

            return Ssi(self._settings.grpc_socket, self._admin, create_s=create_s)
        from agentd.kuasar.admin_json import AdminJson
        from agentd.kuasar.cri import Cri

        return AdminJson(self._admin, Cri(self._settings.cri_socket), create_s=create_s)

    def _forget(self) -> None:
        self._known = None

    def _identity(self) -> Identity:
        return tuple(map(_identity, (self._settings.admin_socket, self._settings.grpc_socket)))


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_ctime_ns


def unusable(found: Probe) -> SnapStartError:
    """The error for a standing in which nothing can be asked."""
    message = f"looking for the Kuasar sandboxer: {found.standing.value}: {found.detail}"
    match found.standing:
        case Standing.ABSENT | Standing.DEAD_SOCKET | Standing.GRPC_UNREACHABLE:
            return TransientError(ErrorCode.PROVIDER_UNREACHABLE, message, hint=found.hint)
        case Standing.NOT_PERMITTED:
            return ConfigError(ErrorCode.PERMISSION_DENIED, message, hint=found.hint)
        case Standing.FROM_SANDBOX | Standing.TTRPC:
            return ConfigError(ErrorCode.PROVIDER_UNABLE, message, hint=found.hint)
        case _:
            return PeerError(ErrorCode.PROVIDER_PROTOCOL, message, hint=found.hint)
