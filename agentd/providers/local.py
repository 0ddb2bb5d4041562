"""Snapshot machines of this daemon's own engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

from agentd.engine.engine import Engine
from agentd.engine.held import HeldBuild
from agentd.engine.template import Template
from agentd.errors import ErrorCode, SnapStartError, TransientError, UsageError
from agentd.providers.driver import CreateRequest, LocalArtifact, SnapshotOwner
from agentd.wire.api import TemplateState
from agentd.wire.manifest import SnapshotFacts
from controlplane.api.types import SnapshotMode

PROVIDER: Final = "snapstart.qemu.org"
# By the kind of monitor (settings.monitor.kind).
PROVIDERS: Final = {
    "qemu": PROVIDER,
    "firecracker": "snapstart.firecracker-microvm.io",
    "cloud-hypervisor": "snapstart.cloudhypervisor.org",
}
# The label by which a held build says whose machine it is.
POD_UID: Final = "pod-uid"
_UNUSABLE: Final = frozenset({ErrorCode.TEMPLATE_CORRUPT, ErrorCode.TEMPLATE_INCOMPATIBLE})


class LocalDriver:
    """The embedded provider: artifacts are templates named by their key.

    Implements `agentd.providers.driver.SnapshotDriver`.
    Args: has_image: whether any guest image can be booted; blocks.
    """

    def __init__(self, engine: Engine, has_image: Callable[[], bool], name: str = PROVIDER) -> None:
        self._name = name
        self._engine = engine
        self._has_image = has_image
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        """The provider's name."""
        return self._name

    async def capabilities(self) -> frozenset[SnapshotMode]:
        """Fork, while machines can be started from an image that is there."""
        try:
            is_able = await asyncio.to_thread(self._is_able)
        except SnapStartError:
            is_able = False
        return frozenset({SnapshotMode.FORK}) if is_able else frozenset()

    def _is_able(self) -> bool:
        self._engine.check_monitor()
        return self._has_image()

    async def create(self, request: CreateRequest) -> LocalArtifact:
        """Seal the held build of a Pod; one at a time.

        Raises: UsageError REQUEST_INVALID (mode), TEMPLATE_EXISTS (a template of that name that no
        cluster ordered), SESSION_ENDED (no held build of that Pod); what the seal failed of.
        Cancellation: ends the build's machine, leaves no artifact.
        """
        if request.mode is not SnapshotMode.FORK:
            raise UsageError(
                ErrorCode.REQUEST_INVALID, f"snapshotting in mode {request.mode.value}: unsupported"
            )
        async with self._turn:
            found = await self.inspect(request.key)
            if found is not None and is_made_for(found, request):
                return found
            if found is not None:
                await self._remove_outdated(found)
            build = self._build_of(request)
            await self._engine.held.seal(build.id, request.key, _facts(request))
        return await self._required(request)

    async def _remove_outdated(self, found: LocalArtifact) -> None:
        if found.owner is None and found.snapshot_hash == "" and found.is_ready:
            raise UsageError(
                ErrorCode.TEMPLATE_EXISTS,
                f"making artifact {found.key!r}: there is a template of that name which no "
                "cluster ordered",
                hint="remove it, if it is not needed",
            )
        await self.delete(found.key)

    def _build_of(self, request: CreateRequest) -> HeldBuild:
        for build in self._engine.held.list():
            if build.labels.get(POD_UID) == request.pod_uid:
                return build
        raise UsageError(
            ErrorCode.SESSION_ENDED,
            f"making artifact {request.key!r} from Pod {request.pod_namespace}/{request.pod_name}: "
            f"no build of UID {request.pod_uid!r} waits here",
            hint="its machine ended, or it is no build",
        )

    async def _required(self, request: CreateRequest) -> LocalArtifact:
        """Look at what was made before anybody is told."""
        found = await self.inspect(request.key)
        if found is None or not is_made_for(found, request):
            raise TransientError(
                ErrorCode.TEMPLATE_BUILD_FAILED,
                f"making artifact {request.key!r}: what is there now is {found!r}",
            )
        return found

    async def delete(self, key: str) -> bool:
        """Remove an artifact; False if there was none.

        Raises: UsageError TEMPLATE_IN_USE while machines need it. Cancellation: afterwards.
        """
        template = self._engine.templates.find(key)
        if template is None:
            return False
        if leases := self._engine.sessions.count(key):
            raise UsageError(
                ErrorCode.TEMPLATE_IN_USE,
                f"removing artifact {key!r}: {leases} of its machines run",
                hint="end them first",
            )
        await self._engine.templates.remove(key)
        await self._engine.parking.drop(key)
        return True

    async def list(self) -> list[LocalArtifact]:
        """Every template, whoever ordered it."""
        templates = self._engine.templates.list()
        return [self._view(t, t.state is TemplateState.READY) for t in templates]

    async def inspect(self, key: str) -> LocalArtifact | None:
        """One artifact; its manifest and the sizes of its files are read again.

        Raises: UsageError NAME_INVALID; SnapStartError when it cannot be told.
        """
        template = self._engine.templates.find(key)
        if template is None:
            return None
        is_ready = template.state is TemplateState.READY
        try:
            if is_ready:
                await self._engine.templates.inspect(key)
        except SnapStartError as exc:
            if exc.code is ErrorCode.TEMPLATE_NOT_FOUND:
                return None
            if exc.code not in _UNUSABLE:
                raise
            is_ready = False
        return self._view(template, is_ready)

    def _view(self, template: Template, is_ready: bool) -> LocalArtifact:
        facts = template.snapshot
        return LocalArtifact(
            key=template.name,
            snapshot_hash="" if facts is None else facts.hash,
            mode=SnapshotMode.FORK,
            is_ready=is_ready,
            leases=self._engine.sessions.count(template.name),
            created_at=_parsed(template.created_at),
            owner=None
            if facts is None
            else SnapshotOwner(facts.cluster, facts.namespace, facts.name, facts.uid),
        )


def is_made_for(found: LocalArtifact, request: CreateRequest) -> bool:
    """True when an artifact is what a request would make."""
    is_same = found.owner == request.owner and found.snapshot_hash == request.snapshot_hash
    return is_same and found.is_ready and found.mode is request.mode


def _facts(request: CreateRequest) -> SnapshotFacts:
    owner = request.owner
    return SnapshotFacts(
        cluster=owner.cluster,
        namespace=owner.namespace,
        name=owner.snapshot_name,
        uid=owner.snapshot_uid,
        hash=request.snapshot_hash,
    )


def _parsed(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
