"""Put the session path together: index, lookup, webhooks, certificates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry

from agentd.tracing import Sink
from controlplane.api.core import Sandbox, SandboxTemplate
from controlplane.api.types import SandboxSnapshot, SnapshotClass
from controlplane.health import Health
from controlplane.kube.api import KubeApi
from controlplane.kube.informer import Informer
from controlplane.kube.resource import (
    MUTATING_WEBHOOKS,
    SNAPSHOT_CLASSES,
    SNAPSHOTS,
    VALIDATING_WEBHOOKS,
)
from controlplane.kube.sandboxes import SandboxApi
from controlplane.sessions.app import WebhookParts, make_webhook_app, serve_webhooks
from controlplane.sessions.authors import TokenReviewer
from controlplane.sessions.decision import Decision
from controlplane.sessions.endpoint import IntentEndpoint
from controlplane.sessions.index import SessionIndex
from controlplane.sessions.keeper import CertificateKeeper, KeeperSettings, follow_files
from controlplane.sessions.lookup import IntentSources, find_restore_intent
from controlplane.sessions.metrics import SessionMetrics
from controlplane.sessions.mutate import SandboxMutator
from controlplane.sessions.pki import canonical_name
from controlplane.sessions.readiness import StoreProbe, judge_certificate, judge_watches
from controlplane.sessions.serving import CertificateFiles, ServingContext
from controlplane.sessions.session import SessionStart
from controlplane.sessions.startup import StartupTimes
from controlplane.sessions.traced import traced
from controlplane.sessions.validate import ObjectValidator
from controlplane.settings import Settings
from controlplane.store.breaker import BreakerStore
from controlplane.store.store import ArtifactStore


class SessionPath:
    """What every replica runs, leading or not. store: None leaves lookups off."""

    def __init__(
        self,
        api: KubeApi,
        sandbox_api: SandboxApi,
        store: ArtifactStore | None,
        settings: Settings,
        registry: CollectorRegistry,
        health: Health,
        sink: Sink | None = None,
    ) -> None:
        self._api = api
        self._settings = settings
        self._index = SessionIndex()
        self._metrics = SessionMetrics(registry)
        guarded = BreakerStore(store, time.monotonic) if store is not None else None
        self._sources = IntentSources(self._index, guarded)
        self._informers = self._follow(sandbox_api)
        self._serving = ServingContext()
        self._probe = StoreProbe(store)
        health.add("watches", lambda: judge_watches(self._informers))
        health.add("store", self._probe.look)
        if settings.webhooks.enabled:
            health.add("certificate", lambda: judge_certificate(self._serving, _now()))
            self._metrics.watch_certificate(lambda: self._serving.not_after)
        self._find = self.find if sink is None else traced(self.find, sink)
        self.port: int | None = None

    async def find(self, session: SessionStart) -> Decision:
        """The restore intent of a new session."""
        return await find_restore_intent(self._sources, session)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while inside. Until the first lists have come, sessions start cold."""
        async with AsyncExitStack() as stack:
            for informer in self._informers:
                informer.start()
                stack.push_async_callback(informer.stop)
            await stack.enter_async_context(_task(self._probe.run(), "store-probe"))
            if self._settings.webhooks.enabled:
                await stack.enter_async_context(self._certificates())
                await self._serve(stack)
            yield

    async def wait_synced(self) -> None:
        """Wait until the index knows what there is."""
        for informer in self._informers:
            await informer.wait_synced()

    async def _serve(self, stack: AsyncExitStack) -> None:
        webhooks, users = self._settings.webhooks, frozenset(self._settings.program.users)
        parts = WebhookParts(
            mutator=SandboxMutator(self._find, self._metrics, users),
            validator=ObjectValidator(self._index, self._metrics, users),
            metrics=self._metrics,
            intents=self._intents(),
        )
        serving = serve_webhooks(
            make_webhook_app(parts), self._serving.context, webhooks.port, webhooks.host or None
        )
        self.port = await stack.enter_async_context(serving)

    def _intents(self) -> IntentEndpoint | None:
        webhooks = self._settings.webhooks
        if not webhooks.intent_callers:
            return None
        reviewer = TokenReviewer(self._api, time.monotonic, webhooks.intent_audience)
        callers = frozenset(webhooks.intent_callers)
        return IntentEndpoint(self._find, reviewer, self._metrics, callers)

    @asynccontextmanager
    async def _certificates(self) -> AsyncIterator[None]:
        directory = self._settings.webhooks.certificate_dir
        if directory is not None:
            files = CertificateFiles(directory, self._serving)
            files.reload()
            work = follow_files(files)
        else:
            work = self._keeper().run()
        async with _task(work, "certificates"):
            yield

    def _keeper(self) -> CertificateKeeper:
        webhooks, namespace = self._settings.webhooks, self._settings.program.namespace
        service = f"{webhooks.service}.{namespace}"
        settings = KeeperSettings(
            namespace=namespace,
            secret=webhooks.secret,
            dns_names=frozenset(
                {f"{service}.svc", service, *map(canonical_name, webhooks.dns_names)}
            ),
            webhooks=(
                (MUTATING_WEBHOOKS, webhooks.configuration),
                (VALIDATING_WEBHOOKS, webhooks.configuration),
            ),
        )
        return CertificateKeeper(self._api, settings, self._serving, _now)

    def _follow(self, sandbox_api: SandboxApi) -> list[Informer[Any]]:
        index, startup = self._index, StartupTimes(self._metrics, _now)

        def snapshot(old: SandboxSnapshot | None, new: SandboxSnapshot | None) -> None:
            if new is not None:
                index.put_snapshot(new)
            elif old is not None:
                index.drop_snapshot(old.metadata.namespace, old.metadata.name)

        def snapshot_class(old: SnapshotClass | None, new: SnapshotClass | None) -> None:
            if new is not None:
                index.put_class(new)
            elif old is not None:
                index.drop_class(old.metadata.name)

        def template(old: SandboxTemplate | None, new: SandboxTemplate | None) -> None:
            if new is not None:
                index.put_template(new)
            elif old is not None:
                index.drop_template(old.metadata.namespace, old.metadata.name)

        def sandbox(old: Sandbox | None, new: Sandbox | None) -> None:
            if new is not None:
                startup.changed(new)
            elif old is not None:
                startup.gone(old.metadata.uid)

        followed: list[Informer[Any]] = []
        snapshots = Informer(self._api, SNAPSHOTS, SandboxSnapshot)
        snapshots.add_handler(snapshot)
        classes = Informer(self._api, SNAPSHOT_CLASSES, SnapshotClass)
        classes.add_handler(snapshot_class)
        sandboxes = Informer(self._api, sandbox_api.sandboxes, Sandbox)
        sandboxes.add_handler(sandbox)
        followed += [snapshots, classes, sandboxes]
        if sandbox_api.templates is not None:
            templates = Informer(self._api, sandbox_api.templates, SandboxTemplate)
            templates.add_handler(template)
            followed.append(templates)
        return followed


@asynccontextmanager
async def _task(work: Coroutine[None, None, None], name: str) -> AsyncIterator[None]:
    """Runs beside the block, and ends with it."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _now() -> datetime:
    return datetime.now(UTC)
