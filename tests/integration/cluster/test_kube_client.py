"""The client against a real API server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from controlplane.api.core import Node, Pod, Sandbox
from controlplane.api.meta import JsonObject
from controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    NotFoundError,
    RejectedError,
    UnavailableError,
)
from controlplane.kube.api import WatchKind
from controlplane.kube.client import KubeClient, open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.events import ObjectRef
from controlplane.kube.informer import Informer
from controlplane.kube.lease import LeaderElection, LeaseHolder, LeaseTiming
from controlplane.kube.leases import LeaseName
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.resource import CONFIG_MAPS, EVENTS, LEASES, NODES, PODS
from controlplane.kube.sandboxes import (
    discover_sandboxes,
    is_pod_of,
    is_suspended,
    node_name,
    pod_name,
    running_spec,
)
from tests.kube.assets import Assets
from tests.kube.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


async def _open(kubeconfig: Path, **changes: float) -> KubeClient:
    settings = KubeSettings(kubeconfig=str(kubeconfig), user_agent="kube-test/1", **changes)  # type: ignore[arg-type]
    return await open_kube(settings, environ={})


@pytest.fixture
async def api(api_cluster: Cluster) -> AsyncIterator[KubeClient]:
    async with await _open(api_cluster.kubeconfig) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"t-{uuid.uuid4().hex[:12]}"


def _map(name: str, **data: str) -> JsonObject:
    return {"metadata": {"name": name, "namespace": "default"}, "data": data}


async def test_an_object_lives_and_dies(api: KubeClient, name: str) -> None:
    made = await api.create(CONFIG_MAPS, _map(name, a="1"))
    with pytest.raises(AlreadyExistsError):
        await api.create(CONFIG_MAPS, _map(name))
    changed = await api.merge(
        CONFIG_MAPS, name, {"data": {"a": None, "b": "2"}}, namespace="default"
    )
    assert changed["data"] == {"b": "2"}
    with pytest.raises(ConflictError):
        await api.replace(CONFIG_MAPS, made)
    again = await api.replace(CONFIG_MAPS, {**changed, "data": {"c": "3"}})
    assert (await api.get(CONFIG_MAPS, name, "default"))["data"] == {"c": "3"}
    assert {field["manager"] for field in again["metadata"]["managedFields"]} == {"kube-test"}
    with pytest.raises(ConflictError):
        await api.delete(CONFIG_MAPS, name, namespace="default", uid="another")
    await api.delete(CONFIG_MAPS, name, namespace="default", uid=made["metadata"]["uid"])
    for call in (
        api.get(CONFIG_MAPS, name, "default"),
        api.delete(CONFIG_MAPS, name, namespace="default"),
    ):
        with pytest.raises(NotFoundError):
            await call


async def test_what_the_server_refuses_says_why(api: KubeClient) -> None:
    with pytest.raises(RejectedError, match="Invalid value"):
        await api.create(CONFIG_MAPS, _map("Not_A_Name"))


async def test_a_user_without_rights_is_told_so(api_cluster: Cluster) -> None:
    async with await _open(api_cluster.kubeconfig_for("nobody-in-particular")) as api:
        with pytest.raises(ForbiddenError, match="nobody-in-particular"):
            await api.list(NODES)


async def test_apply_conflicts_unless_forced(api: KubeClient, name: str) -> None:
    await api.apply(CONFIG_MAPS, _map(name, a="1"), manager="one")
    with pytest.raises(ConflictError):
        await api.apply(CONFIG_MAPS, _map(name, a="2"), manager="two")
    taken = await api.apply(CONFIG_MAPS, _map(name, a="2"), manager="two", force=True)
    assert taken["data"] == {"a": "2"}


async def test_lists_come_in_pages_and_selected(api: KubeClient, name: str) -> None:
    for part in range(3):
        body = _map(f"{name}-{part}")
        body["metadata"]["labels"] = {"test": name}
        await api.create(CONFIG_MAPS, body)
    page = await api.list(CONFIG_MAPS, namespace="default", labels=f"test={name}")
    assert [item["kind"] for item in page.items] == ["ConfigMap"] * 3
    assert page.next_page == ""
    only = await api.list(CONFIG_MAPS, fields=f"metadata.name={name}-1")
    assert len(only.items) == 1


async def test_a_watch_goes_on_from_a_version(api: KubeClient, name: str) -> None:
    page = await api.list(CONFIG_MAPS, namespace="default")
    await api.create(CONFIG_MAPS, _map(name))
    await api.delete(CONFIG_MAPS, name, namespace="default")
    kinds = []
    watch = api.watch(
        CONFIG_MAPS,
        resource_version=page.resource_version,
        namespace="default",
        fields=f"metadata.name={name}",
    )
    async with aclosing(watch) as events:
        async for event in events:
            kinds.append(event.kind)
            if event.kind is WatchKind.DELETED:
                break
    assert kinds == [WatchKind.ADDED, WatchKind.DELETED]


async def test_discovery_names_what_is_served(api: KubeClient) -> None:
    assert await api.preferred_version("coordination.k8s.io") == "v1"
    assert await api.preferred_version("") == "v1"
    with pytest.raises(NotFoundError):
        await api.served_versions("nothing.example.com")


async def test_two_candidates_make_one_leader(api: KubeClient, name: str) -> None:
    working: list[str] = []
    overlaps = 0
    timing = LeaseTiming(duration_s=3, deadline_s=1.5, retry_s=0.1)

    def candidate(identity: str) -> LeaderElection:
        return LeaderElection(api, LeaseName("default", name, identity), timing=timing)

    entered = asyncio.Queue[str]()

    async def work(identity: str) -> None:
        nonlocal overlaps
        overlaps += bool(working)
        working.append(identity)
        entered.put_nowait(identity)
        try:
            await asyncio.Event().wait()
        finally:
            working.remove(identity)

    tasks = {
        identity: asyncio.create_task(candidate(identity).lead(lambda who=identity: work(who)))  # type: ignore[misc]
        for identity in ("one", "two")
    }
    first = await entered.get()
    tasks.pop(first).cancel()
    second = await entered.get()
    assert {first, second} == {"one", "two"}
    lease = await api.get(LEASES, name, "default")
    assert lease["spec"]["holderIdentity"] == second
    # Another takes it by force: the leader stops.
    await api.merge(LEASES, name, {"spec": {"holderIdentity": "three"}}, namespace="default")
    assert await tasks.pop(second) is False
    assert (working, overlaps) == ([], 0)


async def test_a_sign_of_life_is_renewed_and_never_taken_over(api: KubeClient, name: str) -> None:
    holder = LeaseHolder(api, LeaseName("default", name, "agent"), interval_s=0.05)
    await holder.renew()
    first = await api.get(LEASES, name, "default")
    await holder.renew()
    second = await api.get(LEASES, name, "default")
    assert second["spec"]["renewTime"] > first["spec"]["renewTime"]
    assert holder.is_current
    other = LeaseHolder(api, LeaseName("default", name, "impostor"))
    with pytest.raises(ConflictError, match="agent"):
        await other.renew()


async def test_events_are_stored_and_counted(
    api: KubeClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.kube.recorder._FLUSH_S", 60.0)
    made = await api.create(CONFIG_MAPS, _map(name))
    about = ObjectRef("v1", "ConfigMap", name, "default", made["metadata"]["uid"])
    recorder = EventRecorder(api, component="test", instance="here")
    recorder.normal(about, "Begun", "it began")
    recorder.start()
    recorder.warning(ObjectRef("v1", "Node", name, uid=name), "Lost", "a cluster-scoped one")
    await recorder.stop()
    recorder.normal(about, "Begun", "it began")
    recorder.start()
    await recorder.stop()
    fields = f"involvedObject.name={name}"
    events = (await api.list(EVENTS, namespace="default", fields=fields)).items
    assert {(event["reason"], event["count"]) for event in events} == {("Begun", 2), ("Lost", 1)}
    assert recorder.dropped == 0


class Followed:
    """The names of all Nodes, as an informer tells them."""

    def __init__(self, api: KubeClient) -> None:
        self.names: set[str] = set()
        self.informer = Informer(api, NODES, Node)
        self.informer.add_handler(self._on_change)
        self._changed = asyncio.Event()

    def _on_change(self, old: Node | None, new: Node | None) -> None:
        if old:
            self.names.discard(old.metadata.name)
        if new:
            self.names.add(new.metadata.name)
        self._changed.set()

    async def until(self, expected: set[str]) -> None:
        while self.names != expected:
            self._changed.clear()
            await self._changed.wait()


async def _lead_until_lost(api: KubeClient, begun: asyncio.Event) -> bool:
    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    timing = LeaseTiming(duration_s=3, deadline_s=1.5, retry_s=0.1)
    return await LeaderElection(api, LeaseName("default", "l", "me"), timing=timing).lead(work)


async def test_restarts_of_the_api_server_and_of_etcd_are_survived(
    kube_assets: Assets, tmp_path: Path
) -> None:
    with Cluster(
        tmp_path, assets=kube_assets, controller_manager=False, scheduler=False
    ) as cluster:
        async with await _open(cluster.kubeconfig, call_timeout_s=15.0) as api:
            followed = Followed(api)
            followed.informer.start()
            try:
                await followed.informer.wait_synced()
                await _lose_the_api_server(cluster, api, followed)
                await _lose_etcd(cluster, api, followed)
            finally:
                await followed.informer.stop()


async def _lose_the_api_server(cluster: Cluster, api: KubeClient, followed: Followed) -> None:
    first = await api.create(NODES, {"metadata": {"name": "stays"}})
    await api.create(NODES, {"metadata": {"name": "goes"}})
    await followed.until({"stays", "goes"})
    begun = asyncio.Event()
    leading = asyncio.create_task(_lead_until_lost(api, begun))
    await begun.wait()
    await asyncio.to_thread(cluster.kill_apiserver)
    with pytest.raises(UnavailableError):
        await api.get(NODES, "stays")
    assert await leading is False
    begun.clear()
    again = asyncio.create_task(_lead_until_lost(api, begun))
    await asyncio.to_thread(cluster.restart_apiserver)
    await begun.wait()
    again.cancel()
    await asyncio.wait([again])
    # A server that was still starting may have cost it the Lease before that.
    assert again.cancelled() or again.result() is False
    await api.delete(NODES, "goes")
    await api.create(NODES, {"metadata": {"name": "comes"}})
    await followed.until({"stays", "comes"})
    # The new server remembers nothing of the time before it.
    version = str(int(first["metadata"]["resourceVersion"]) - 1)
    with pytest.raises(ExpiredError):
        await anext(api.watch(NODES, resource_version=version))


async def _lose_etcd(cluster: Cluster, api: KubeClient, followed: Followed) -> None:
    await asyncio.to_thread(cluster.kill_etcd)
    with pytest.raises(UnavailableError):
        await api.create(NODES, {"metadata": {"name": "never"}})
    await asyncio.to_thread(cluster.restart_etcd)
    await api.delete(NODES, "comes")
    await followed.until({"stays"})


async def test_sandboxes_of_either_version_run(sandbox_cluster: Cluster, name: str) -> None:
    async with await _open(sandbox_cluster.kubeconfig) as api:
        found = await discover_sandboxes(api)
        assert found.version == sandbox_cluster.sandbox_version
        assert found.templates is not None
        await api.list(found.templates)
        await api.create(NODES, {"metadata": {"name": name}})
        sandboxes = Informer(api, found.sandboxes, Sandbox, namespace="default")
        pods = Informer(api, PODS, Pod, fields=f"spec.nodeName={name}")
        changed = asyncio.Event()
        for informer in (sandboxes, pods):
            informer.add_handler(lambda old, new: changed.set())
            informer.start()

        async def until(is_true: Callable[[], bool]) -> None:
            while not is_true():
                changed.clear()
                await changed.wait()

        def is_running() -> bool:
            sandbox = sandboxes.get(name, "default")
            return sandbox is not None and any(is_pod_of(pod, sandbox) for pod in pods.all())

        try:
            pod = {"containers": [{"name": "main", "image": "example.test/none:1"}]}
            spec = {"podTemplate": {"spec": {**pod, "nodeName": name}}}
            body = {"metadata": {"name": name, "namespace": "default"}, "spec": spec}
            spec |= running_spec(found.version)
            await api.create(found.sandboxes, body)
            await until(is_running)
            sandbox = sandboxes.get(name, "default")
            assert sandbox is not None
            assert not is_suspended(sandbox)
            assert node_name(sandbox, pods.get(pod_name(sandbox), "default")) == name
            await api.delete(found.sandboxes, name, namespace="default")
            await until(lambda: sandboxes.get(name, "default") is None)
            assert sandboxes.undecodable == pods.undecodable == ()
        finally:
            await sandboxes.stop()
            await pods.stop()
            await api.delete(NODES, name)
