from __future__ import annotations

import asyncio
import base64
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controlplane.api.meta import JsonObject
from controlplane.errors import ConflictError, ControlPlaneError, PeerError, UnavailableError
from controlplane.kube.resource import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS
from controlplane.sessions import keeper
from controlplane.sessions.certificates import AUTHORITY_LIFE, SERVING_LIFE
from controlplane.sessions.keeper import CertificateKeeper, KeeperSettings
from controlplane.sessions.pki import make_authority, make_serving, read_box
from controlplane.sessions.serving import CertificateFiles, ServingContext
from tests.fakes.kube import FakeKube
from tests.fakes.kube_cluster import FakeCluster

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = KeeperSettings(
    namespace="snapstart",
    secret="webhook-tls",
    dns_names=frozenset({"webhook.snapstart.svc"}),
    webhooks=((MUTATING_WEBHOOKS, "snapstart"), (VALIDATING_WEBHOOKS, "snapstart")),
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class Replica:
    def __init__(self, cluster: FakeCluster, clock: Clock) -> None:
        self.kube = FakeKube(cluster)
        self.serving = ServingContext()
        self.keeper = CertificateKeeper(self.kube, SETTINGS, self.serving, clock)


def configuration(kind: str) -> JsonObject:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "snapstart"},
        "webhooks": [
            {"name": "a.example", "clientConfig": {"service": {"name": "webhook"}}},
            {"name": "b.example", "clientConfig": {"url": "https://127.0.0.1/"}},
        ],
    }


async def setup(configured: bool = True) -> tuple[FakeCluster, Clock]:
    cluster, clock = FakeCluster(), Clock()
    if configured:
        kube = FakeKube(cluster)
        await kube.create(MUTATING_WEBHOOKS, configuration("MutatingWebhookConfiguration"))
        await kube.create(VALIDATING_WEBHOOKS, configuration("ValidatingWebhookConfiguration"))
    return cluster, clock


async def bundles(kube: FakeKube) -> set[str]:
    found = set()
    for resource, name in SETTINGS.webhooks:
        body = await kube.get(resource, name)
        for webhook in body["webhooks"]:
            assert len(webhook["clientConfig"]) == 2, "nothing else of it changes"
            found.add(base64.b64decode(webhook["clientConfig"]["caBundle"]).decode())
    return found


async def bundle_in_secret(kube: FakeKube) -> str:
    secret = await kube.get(SECRETS, "webhook-tls", "snapstart")
    return read_box(secret["data"]).bundle_pem.decode()


async def test_the_first_look_makes_everything() -> None:
    replica = Replica(*await setup())
    due = await replica.keeper.look()
    assert replica.serving.is_loaded
    assert await bundles(replica.kube) == {await bundle_in_secret(replica.kube)}
    assert due > NOW


async def test_a_second_look_writes_nothing() -> None:
    replica = Replica(*await setup())
    await replica.keeper.look()
    writes = replica.kube.writes
    await replica.keeper.look()
    assert replica.kube.writes == writes


async def test_replicas_that_start_together_agree() -> None:
    cluster, clock = await setup()
    replicas = [Replica(cluster, clock) for _ in range(4)]
    await asyncio.gather(*(replica.keeper.look() for replica in replicas))
    for replica in replicas:
        await replica.keeper.look()
    assert await bundles(replicas[0].kube) == {await bundle_in_secret(replicas[0].kube)}
    served = {str(replica.serving._loaded) for replica in replicas}
    assert len(served) == 1


async def test_replicas_that_rotate_together_agree() -> None:
    cluster, clock = await setup()
    replicas = [Replica(cluster, clock) for _ in range(3)]
    await asyncio.gather(*(replica.keeper.look() for replica in replicas))
    for step in (AUTHORITY_LIFE * 0.7, timedelta(hours=1), SERVING_LIFE):
        clock.now += step
        await asyncio.gather(*(replica.keeper.look() for replica in replicas))
        await asyncio.gather(*(replica.keeper.look() for replica in replicas))
        assert await bundles(replicas[0].kube) == {await bundle_in_secret(replicas[0].kube)}
        assert len({str(replica.serving._loaded) for replica in replicas}) == 1


async def test_a_bundle_that_somebody_removes_comes_back() -> None:
    replica = Replica(*await setup())
    await replica.keeper.look()
    body = configuration("MutatingWebhookConfiguration")
    await replica.kube.merge(MUTATING_WEBHOOKS, "snapstart", {"webhooks": body["webhooks"]})
    await replica.keeper.look()
    assert await bundles(replica.kube) == {await bundle_in_secret(replica.kube)}


async def test_without_configurations_it_serves_all_the_same() -> None:
    replica = Replica(*await setup(configured=False))
    await replica.keeper.look()
    assert replica.serving.is_loaded


async def test_an_api_server_that_is_away_is_not_an_absent_secret() -> None:
    replica = Replica(*await setup())
    await replica.keeper.look()
    before = await bundle_in_secret(replica.kube)
    replica.kube.fail_next("get", UnavailableError("away"))
    with pytest.raises(UnavailableError):
        await replica.keeper.look()
    assert await bundle_in_secret(replica.kube) == before


async def test_nothing_new_is_served_that_is_not_trusted_yet() -> None:
    cluster, clock = await setup()
    replica = Replica(cluster, clock)
    replica.kube.fail_next("merge", UnavailableError("away"), resource=MUTATING_WEBHOOKS)
    with pytest.raises(UnavailableError):
        await replica.keeper.look()
    assert not replica.serving.is_loaded


async def test_a_lost_answer_is_seen_at_the_next_reading() -> None:
    cluster, clock = await setup()
    replica = Replica(cluster, clock)
    replica.kube.fail_next("create", UnavailableError("lost"), resource=SECRETS, is_done=True)
    with pytest.raises(ControlPlaneError):
        await replica.keeper.look()
    await replica.keeper.look()
    assert await bundles(replica.kube) == {await bundle_in_secret(replica.kube)}


async def test_endless_conflicts_end_in_an_error() -> None:
    replica = Replica(*await setup())
    await replica.keeper.look()
    replica.kube.fail_next("merge", ConflictError("no"), 99)
    kube = replica.kube
    body = configuration("MutatingWebhookConfiguration")
    current = await kube.get(MUTATING_WEBHOOKS, "snapstart")
    await kube.replace(MUTATING_WEBHOOKS, {**current, "webhooks": body["webhooks"]})
    with pytest.raises(PeerError):
        await replica.keeper.look()


async def test_running_outlives_failures_and_ends_when_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper, "_RETRY_S", (0.0,))
    cluster, clock = await setup()
    replica = Replica(cluster, clock)
    replica.kube.fail_next("get", UnavailableError("away"), 3)
    running = asyncio.create_task(replica.keeper.run())
    for _ in range(100):
        await asyncio.sleep(0)
    assert replica.serving.is_loaded
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_files_that_are_followed_are_served_soon_after_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_FILES_S", 0.0)
    serving = ServingContext()
    running = asyncio.create_task(keeper.follow_files(CertificateFiles(tmp_path, serving)))
    await asyncio.sleep(0)  # nothing is there yet, which ends nothing
    pair = make_serving(make_authority(datetime.now(UTC)), datetime.now(UTC), ["localhost"])
    (tmp_path / "tls.crt").write_bytes(pair.certificate_pem)
    (tmp_path / "tls.key").write_bytes(pair.key_pem)
    for _ in range(10):
        await asyncio.sleep(0)
    assert serving.is_loaded
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_a_context_is_a_servers() -> None:
    assert ServingContext().context.protocol == ssl.PROTOCOL_TLS_SERVER
