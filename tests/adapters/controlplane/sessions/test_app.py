from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.kube.resource import Resource
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
from controlplane.sessions.lookup import IntentSources, find_restore_intent
from controlplane.sessions.metrics import SessionMetrics
from controlplane.sessions.mutate import SandboxMutator
from controlplane.sessions.pki import KeyPair, make_authority, make_serving
from controlplane.sessions.serving import ServingContext
from controlplane.sessions.session import SessionStart
from controlplane.sessions.validate import ObjectValidator
from controlplane.store.store import OwnerKey, Stored
from tests.fakes.kube import FakeKube
from tests.fakes.session_world import (
    NAMESPACE,
    POD_SPEC,
    TEMPLATE,
    make_index,
    make_manifest,
    make_snapshot,
    owner_key,
    sandbox_body,
)
from tests.fakes.store import FakeStore

MANAGER = "system:serviceaccount:agentcube:workload-manager"


class Reviews(FakeKube):
    """Knows one token."""

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        known = {"manager": MANAGER, "other": "alice"}
        user = known.get(body["spec"]["token"])
        return {"status": {"authenticated": user is not None, "user": {"username": user}}}


class GatedStore(FakeStore):
    """Waits before each answer while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, key: OwnerKey) -> Stored | None:
        self.asked.set()
        await self.gate.wait()
        return self.memory.get(key)


class Service:
    """The whole session path over a real socket, with its own authority."""

    def __init__(self) -> None:
        self.authority = make_authority(datetime.now(UTC))
        self.serving = ServingContext()
        self.renew(self.authority)
        self.registry = CollectorRegistry()
        self.store = GatedStore()
        snapshot = make_snapshot()
        self.store.memory.put(owner_key(snapshot), make_manifest(snapshot), None)
        self.sources = IntentSources(make_index(snapshot), self.store, budget_s=5.0)
        self.port = 0

    def renew(self, authority: KeyPair) -> None:
        made = make_serving(authority, datetime.now(UTC), ["localhost"])
        self.serving.load(made.certificate_pem, made.key_pem)

    async def find(self, session: SessionStart) -> Decision:
        return await find_restore_intent(self.sources, session)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        metrics = SessionMetrics(self.registry)
        reviewer = TokenReviewer(Reviews(), lambda: 0.0)
        parts = WebhookParts(
            SandboxMutator(self.find, metrics, frozenset()),
            ObjectValidator(self.sources.index, metrics, frozenset()),
            metrics,
            IntentEndpoint(self.find, reviewer, metrics, frozenset({MANAGER})),
        )
        app = make_webhook_app(parts)
        async with serve_webhooks(app, self.serving.context, 0, "127.0.0.1") as port:
            self.port = port
            yield

    def trust(self, *authorities: KeyPair) -> ssl.SSLContext:
        pem = b"".join(one.certificate_pem for one in authorities or (self.authority,))
        context = ssl.create_default_context(cadata=pem.decode())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    @asynccontextmanager
    async def client(self, *authorities: KeyPair) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(ssl=self.trust(*authorities), force_close=True, limit=0)
        base = f"https://localhost:{self.port}"
        async with aiohttp.ClientSession(base, connector=connector) as client:
            yield client


def review(body: JsonObject) -> JsonObject:
    request = {
        "uid": "u",
        "operation": "CREATE",
        "kind": {"group": names.SANDBOX_GROUP, "version": "v1beta1", "kind": "Sandbox"},
        "namespace": NAMESPACE,
        "userInfo": {"username": "alice"},
        "object": body,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


async def mutate(client: aiohttp.ClientSession, body: Any = None) -> JsonObject:
    async with client.post(MUTATE_PATH, json=review(body or sandbox_body())) as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        answer: JsonObject = (await response.json())["response"]
        return answer


def key_in(answer: JsonObject) -> str:
    patch = json.loads(base64.b64decode(answer["patch"]))
    found: str = patch[0]["value"]["annotations"][names.SNAPSHOT_KEY]
    return found


async def test_a_sandbox_gets_its_intent_over_tls() -> None:
    service = Service()
    async with service.serve(), service.client() as client:
        answer = await mutate(client)
    assert answer["allowed"] is True
    assert answer["patchType"] == "JSONPatch"
    assert key_in(answer) == "key-1"


async def test_many_sandboxes_at_once_all_get_their_intent() -> None:
    service = Service()
    async with service.serve(), service.client() as client:
        answers = await asyncio.gather(*(mutate(client) for _ in range(60)))
    assert {key_in(answer) for answer in answers} == {"key-1"}


async def test_a_body_larger_than_any_review_is_admitted_and_counted() -> None:
    service = Service()
    async with service.serve(), service.client() as client:
        for path in (MUTATE_PATH, VALIDATE_PATH):
            async with client.post(path, data=io.BytesIO(b" " * (9 * 1024 * 1024))) as response:
                assert (await response.json())["response"] == {"uid": "", "allowed": True}
    reason = {"reason": "too_large"}
    assert (
        service.registry.get_sample_value("agentcube_snapstart_admission_errors_total", reason) == 2
    )


async def test_an_invalid_snapshot_is_refused_over_tls() -> None:
    body = review({"metadata": {"name": "s"}, "spec": {}})
    body["request"]["kind"] = {"group": names.GROUP, "kind": "SandboxSnapshot"}
    service = Service()
    async with (
        service.serve(),
        service.client() as client,
        client.post(VALIDATE_PATH, json=body) as response,
    ):
        answer = (await response.json())["response"]
    assert answer["allowed"] is False
    assert answer["status"]["code"] == 422


async def test_a_workload_manager_asks_over_http() -> None:
    body = {"namespace": NAMESPACE, "template": TEMPLATE, "podTemplate": {"spec": POD_SPEC}}
    service = Service()
    expected = {"": 401, "Bearer nobody": 401, "Bearer other": 403, "Bearer manager": 200}
    async with service.serve(), service.client() as client:
        for header, status in expected.items():
            headers = {"Authorization": header} if header else {}
            async with client.post(INTENT_PATH, json=body, headers=headers) as response:
                answer = await response.json()
                assert response.status == status, answer
    assert answer == {
        "snapshotKey": "key-1",
        "reason": "restored_intent",
        "annotations": {names.SNAPSHOT_KEY: "key-1"},
    }
    assert service.store.memory.reads == 1, "who may not ask reads no store"


async def test_certificates_change_under_traffic_without_a_failed_handshake() -> None:
    service = Service()
    coming = make_authority(datetime.now(UTC))
    async with service.serve(), service.client(service.authority, coming) as client:
        done = asyncio.Event()

        async def traffic() -> int:
            count = 0
            while not done.is_set():
                assert key_in(await mutate(client)) == "key-1"
                count += 1
            return count

        callers = [asyncio.create_task(traffic()) for _ in range(4)]
        for turn in range(10):
            await mutate(client)
            service.renew(coming if turn % 2 else service.authority)
        done.set()
        counts = await asyncio.gather(*callers)
    assert all(counts)


async def test_new_connections_see_the_newest_certificate() -> None:
    service = Service()
    coming = make_authority(datetime.now(UTC))
    async with service.serve(), service.client(coming) as client:
        with contextlib.suppress(aiohttp.ClientConnectorCertificateError):
            await mutate(client)
            raise AssertionError("an authority that is not served was accepted")
        service.renew(coming)
        assert key_in(await mutate(client)) == "key-1"


async def test_plain_http_and_silence_keep_nobody_else_waiting() -> None:
    service = Service()
    async with service.serve(), service.client() as client:
        _, silent = await asyncio.open_connection("127.0.0.1", service.port)
        reader, plain = await asyncio.open_connection("127.0.0.1", service.port)
        plain.write(b"POST /admission/sandboxes HTTP/1.1\r\n\r\n")
        await reader.read()
        assert key_in(await mutate(client)) == "key-1"
        for writer in (silent, plain):
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_stopping_lets_a_request_end() -> None:
    service = Service()
    service.store.gate.clear()
    stack = contextlib.AsyncExitStack()
    await stack.enter_async_context(service.serve())
    async with service.client() as client:
        running = asyncio.create_task(mutate(client))
        await service.store.asked.wait()
        stopping = asyncio.create_task(stack.aclose())
        await asyncio.sleep(0)
        service.store.gate.set()
        assert key_in(await running) == "key-1"
        await stopping


async def test_a_client_that_hangs_up_leaves_nothing_behind() -> None:
    service = Service()
    service.store.gate.clear()
    async with service.serve():
        async with service.client() as client:
            running = asyncio.create_task(mutate(client))
            await service.store.asked.wait()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        service.store.gate.set()
        async with service.client() as client:
            assert key_in(await mutate(client)) == "key-1"
