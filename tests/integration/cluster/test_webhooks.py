"""The webhooks as a real API server calls them, on what the real agent-sandbox creates."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from controlplane.api import names
from controlplane.api.core import SandboxTemplate
from controlplane.api.meta import JsonObject
from controlplane.api.types import SandboxSnapshot, SnapshotClass
from controlplane.errors import ControlPlaneError, NotFoundError, RejectedError
from controlplane.kube.client import KubeClient, open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.resource import (
    MUTATING_WEBHOOKS,
    SNAPSHOT_CLASSES,
    SNAPSHOTS,
    VALIDATING_WEBHOOKS,
    Resource,
    sandbox_templates,
    sandbox_warm_pools,
    sandboxes,
)
from controlplane.sessions.app import (
    INTENT_PATH,
    MUTATE_PATH,
    VALIDATE_PATH,
    WebhookParts,
    make_webhook_app,
    serve_webhooks,
)
from controlplane.sessions.authors import TokenReviewer
from controlplane.sessions.decision import Decision
from controlplane.sessions.endpoint import IntentEndpoint
from controlplane.sessions.index import SessionIndex
from controlplane.sessions.keeper import CertificateKeeper, KeeperSettings
from controlplane.sessions.lookup import IntentSources, find_restore_intent
from controlplane.sessions.metrics import SessionMetrics
from controlplane.sessions.mutate import SandboxMutator
from controlplane.sessions.serving import ServingContext
from controlplane.sessions.session import SessionStart
from controlplane.sessions.validate import ObjectValidator
from tests.fakes.session_world import (
    CLASS,
    POD_SPEC,
    PROVIDER,
    TEMPLATE,
    make_hash,
    make_manifest,
    owner_key,
)
from tests.fakes.store import FakeStore
from tests.kube.assets import ROOT
from tests.kube.cluster import Cluster
from tests.kube.objects import fresh_namespace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

KEY = "python-ready-fork-g1-r1"
# How long a machine may be busy with something else before a session starts cold for it.
PATIENCE_S = 20.0
FORGED = {names.SNAPSHOT_KEY: "stolen", "kuasar.io/template-key": "stolen"}


class Site:
    """One namespace with a ready snapshot, the webhooks, their configurations."""

    def __init__(self, cluster: Cluster, api: KubeClient, namespace: str) -> None:
        self.cluster, self.api, self.namespace = cluster, api, namespace
        self.version = str(cluster.sandbox_version)
        self.index, self.store = SessionIndex(), FakeStore()
        self.serving = ServingContext()
        self.metrics = SessionMetrics(CollectorRegistry())
        self.port = 0
        self._stack = contextlib.AsyncExitStack()

    async def find(self, session: SessionStart) -> Decision:
        sources = IntentSources(self.index, self.store, budget_s=PATIENCE_S)
        return await find_restore_intent(sources, session)

    def keeper(self) -> CertificateKeeper:
        configurations = (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)
        settings = KeeperSettings(
            namespace=self.namespace,
            secret="webhook-tls",
            dns_names=frozenset({"localhost"}),
            webhooks=tuple((resource, self.namespace) for resource in configurations),
        )
        return CertificateKeeper(self.api, settings, self.serving, lambda: datetime.now(UTC))

    async def start(self) -> None:
        """Make the snapshot, serve, let the API server know."""
        await self._make_snapshot()
        self.port = await self._stack.enter_async_context(self._serve())
        await self._configure()
        await self.keeper().look()
        await eventually(self._is_called, "the API server calls the webhook for sessions")
        await eventually(self._is_asked, "the API server calls the webhook for snapshots")

    async def stop(self) -> None:
        """Take the configurations away, stop serving."""
        for resource in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS):
            with contextlib.suppress(NotFoundError):
                await self.api.delete(resource, self.namespace)
        await self.stop_serving()

    async def stop_serving(self) -> None:
        await self._stack.aclose()

    async def create(self, name: str, **pod_metadata: Any) -> JsonObject:
        """Create a Sandbox as AgentCube does; what is stored."""
        pod = {"spec": copy.deepcopy(POD_SPEC), "metadata": pod_metadata}
        body = {
            "apiVersion": f"{names.SANDBOX_GROUP}/{self.version}",
            "kind": "Sandbox",
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": {names.WORKLOAD_NAME: TEMPLATE},
            },
            "spec": {"podTemplate": pod},
        }
        return await self.api.create(sandboxes(self.version), body)

    def _serve(self) -> contextlib.AbstractAsyncContextManager[int]:
        reviewer = TokenReviewer(self.api, lambda: 0.0, audience="snapstart")
        callers = frozenset({f"system:serviceaccount:{self.namespace}:default"})
        parts = WebhookParts(
            SandboxMutator(self.find, self.metrics, frozenset()),
            ObjectValidator(self.index, self.metrics, frozenset()),
            self.metrics,
            IntentEndpoint(self.find, reviewer, self.metrics, callers),
        )
        return serve_webhooks(make_webhook_app(parts), self.serving.context, 0, "127.0.0.1")

    async def _make_snapshot(self) -> None:
        template = await self._made(
            sandbox_templates(self.version), TEMPLATE, {"podTemplate": {"spec": POD_SPEC}}
        )
        spec = {"providerName": PROVIDER, "supportedSnapshotModes": ["Fork"]}
        with contextlib.suppress(ControlPlaneError):  # cluster-scoped: another test's will do
            await self._made(SNAPSHOT_CLASSES, CLASS, spec)
        made_class = await self.api.get(SNAPSHOT_CLASSES, CLASS)
        await self._made(SNAPSHOTS, "python-ready", snapshot_spec("Fork"))
        status = {"phase": "Ready", "targetNodeCount": 1, "readyNodeCount": 1}
        status |= {"creatingNodeCount": 0, "failedNodeCount": 0, "unavailableNodeCount": 0}
        body = await self.api.merge(
            SNAPSHOTS,
            "python-ready",
            {"status": status},
            namespace=self.namespace,
            subresource="status",
        )
        snapshot = msgspec.convert(body, SandboxSnapshot)
        snapshot_class = msgspec.convert(made_class, SnapshotClass)
        read = msgspec.convert(template, SandboxTemplate)
        self.index.put_template(read)
        self.index.put_class(snapshot_class)
        self.index.put_snapshot(snapshot)
        manifest = make_manifest(snapshot, KEY, make_hash(read, snapshot_class))
        self.store.memory.put(owner_key(snapshot), manifest, None)

    async def _made(self, resource: Resource, name: str, spec: JsonObject) -> JsonObject:
        metadata = {"name": name}
        if resource.is_namespaced:
            metadata["namespace"] = self.namespace
        kind = {"apiVersion": resource.api_version, "kind": resource.kind}
        return await self.api.create(
            resource, {**kind, "metadata": metadata, "spec": copy.deepcopy(spec)}
        )

    async def _configure(self) -> None:
        mutate = {
            "apiGroups": [names.SANDBOX_GROUP],
            "apiVersions": ["*"],
            "resources": ["sandboxes"],
            "operations": ["CREATE", "UPDATE"],
        }
        validate = {
            "apiGroups": [names.GROUP],
            "apiVersions": ["*"],
            "resources": ["*"],
            "operations": ["CREATE", "UPDATE"],
        }
        for resource, path, rule in (
            (MUTATING_WEBHOOKS, MUTATE_PATH, mutate),
            (VALIDATING_WEBHOOKS, VALIDATE_PATH, validate),
        ):
            await self.api.create(resource, self._configuration(resource, path, rule))

    def _configuration(self, resource: Resource, path: str, rule: JsonObject) -> JsonObject:
        webhook = {
            "name": "test.snapstart.agentcube.volcano.sh",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "timeoutSeconds": int(PATIENCE_S),
            "clientConfig": {"url": f"https://localhost:{self.port}{path}"},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
            "rules": [rule],
        }
        return {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": self.namespace},
            "webhooks": [webhook],
        }

    async def _is_called(self) -> bool:
        name = f"probe-{datetime.now(UTC).timestamp():.6f}".replace(".", "-")
        stored = await self.create(name)
        await self.api.delete(sandboxes(self.version), name, namespace=self.namespace)
        return intent(stored) == KEY

    async def _is_asked(self) -> bool:
        """Each configuration gets to an API server by itself."""
        try:
            await self._made(SNAPSHOTS, "probe", snapshot_spec("Resume"))
        except RejectedError:
            return True
        await self.api.delete(SNAPSHOTS, "probe", namespace=self.namespace)
        return False


def snapshot_spec(mode: str) -> JsonObject:
    source = {"apiGroup": names.EXTENSIONS_GROUP, "kind": "SandboxTemplate", "name": TEMPLATE}
    if mode == "Resume":
        source = {"apiGroup": names.SANDBOX_GROUP, "kind": "Sandbox", "name": "some"}
    return {"snapshotMode": mode, "sourceRef": source, "snapshotClassName": CLASS}


def pod_annotations(sandbox: JsonObject) -> dict[str, str]:
    return (sandbox["spec"]["podTemplate"].get("metadata") or {}).get("annotations") or {}


def intent(sandbox: JsonObject) -> str | None:
    return pod_annotations(sandbox).get(names.SNAPSHOT_KEY)


async def eventually(is_true: Callable[[], Awaitable[bool]], what: str) -> None:
    """An API server learns of a configuration by a watch of its own."""
    for _ in range(300):
        if await is_true():
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"after a minute still not: {what}")


@contextlib.asynccontextmanager
async def open_site(cluster: Cluster) -> AsyncIterator[Site]:
    await asyncio.to_thread(cluster.install_crds, [Path(ROOT) / "deploy" / "crds"])
    settings = KubeSettings(kubeconfig=str(cluster.kubeconfig), user_agent="webhook-test/1")
    with fresh_namespace(cluster) as namespace:
        async with await open_kube(settings, environ={}) as api:
            site = Site(cluster, api, namespace)
            try:
                await site.start()
                yield site
            finally:
                await site.stop()


@pytest.fixture
async def site(cluster: Cluster) -> AsyncIterator[Site]:
    async with open_site(cluster) as made:
        yield made


@pytest.fixture
async def versioned_site(sandbox_cluster: Cluster) -> AsyncIterator[Site]:
    async with open_site(sandbox_cluster) as made:
        yield made


async def test_a_session_gets_its_intent_and_loses_a_forged_one(versioned_site: Site) -> None:
    stored = await versioned_site.create("forged", annotations=dict(FORGED))
    assert pod_annotations(stored) == {names.SNAPSHOT_KEY: KEY}


async def test_the_refills_of_a_real_pool_restore(versioned_site: Site) -> None:
    site = versioned_site
    spec = {"replicas": 2, "sandboxTemplateRef": {"name": TEMPLATE}}
    await site._made(sandbox_warm_pools(site.version), "pool", spec)
    made: list[JsonObject] = []

    async def is_filled() -> bool:
        page = await site.api.list(sandboxes(site.version), namespace=site.namespace)
        made[:] = [one for one in page.items if one["metadata"]["name"].startswith("pool-")]
        return len(made) == 2

    await eventually(is_filled, "the pool is filled")
    told = [one["metadata"].get("annotations") for one in made]
    assert [intent(one) for one in made] == [KEY, KEY], told


async def test_a_session_that_runs_something_else_is_told_why(site: Site) -> None:
    stored = await site.create("other", labels={"hashed": "yes"})
    assert intent(stored) is None
    assert stored["metadata"]["annotations"][names.COLD_START_REASON] == "hash_mismatch"


async def test_an_update_cannot_forge_an_intent(site: Site) -> None:
    await site.create("live")
    patch = {"spec": {"podTemplate": {"metadata": {"annotations": FORGED}}}}
    stored = await site.api.merge(sandboxes(site.version), "live", patch, namespace=site.namespace)
    assert pod_annotations(stored) == {names.SNAPSHOT_KEY: KEY}


async def test_without_the_webhook_sandboxes_are_created_all_the_same(site: Site) -> None:
    await site.stop_serving()
    stored = await site.create("alone")
    assert intent(stored) is None
    assert stored["metadata"]["uid"]


async def test_without_the_store_sandboxes_are_created_and_told_why(site: Site) -> None:
    site.store.memory.set_down(True)
    stored = await site.create("cold")
    assert intent(stored) is None
    assert stored["metadata"]["annotations"][names.COLD_START_REASON] == "store_error"


async def test_resume_is_refused_with_a_message_for_its_author(site: Site) -> None:
    with pytest.raises(RejectedError, match="mode Resume is not implemented yet; use Fork"):
        await site._made(SNAPSHOTS, "resume", snapshot_spec("Resume"))


async def test_a_second_replica_agrees_on_the_certificates(site: Site) -> None:
    before = await site.api.get(MUTATING_WEBHOOKS, site.namespace)
    other = ServingContext()
    keeper = site.keeper()
    keeper._serving = other
    await keeper.look()
    assert other._loaded == site.serving._loaded
    after = await site.api.get(MUTATING_WEBHOOKS, site.namespace)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_a_workload_manager_asks_with_its_own_token(site: Site) -> None:
    path = f"/api/v1/namespaces/{site.namespace}/serviceaccounts/default/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    tokens = []
    for audience in ("snapstart", "elsewhere"):
        spec = {"expirationSeconds": 600, "audiences": [audience]}
        reply = await asyncio.to_thread(
            site.cluster.api.call, "POST", path, {**asked, "spec": spec}
        )
        tokens.append(reply["status"]["token"])
    body = {"namespace": site.namespace, "template": TEMPLATE, "podTemplate": {"spec": POD_SPEC}}
    url = f"https://localhost:{site.port}{INTENT_PATH}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as client:
        answers = []
        for token in (*tokens, "junk"):
            headers = {"Authorization": f"Bearer {token}"}
            async with client.post(url, json=body, headers=headers) as response:
                answers.append((response.status, (await response.json()).get("snapshotKey")))
    assert answers == [(200, KEY), (401, None), (401, None)]
