"""The API server in memory behaves as the real one does, as far as this program relies on it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.api import names
from controlplane.api.crds import DIRECTORY
from controlplane.api.meta import JsonObject
from controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ControlPlaneError,
    NotFoundError,
    RejectedError,
)
from controlplane.kube.api import KubeApi, WatchEvent, WatchKind
from controlplane.kube.client import open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.resource import CONFIG_MAPS, LEASES, NODES, PODS, SNAPSHOTS, TASKS
from tests.fakes.kube import FakeKube
from tests.kube.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SANDBOX = {"apiGroup": names.SANDBOX_GROUP, "kind": "Sandbox", "name": "s1"}


@pytest.fixture(params=["real", "in memory"])
async def api(request: pytest.FixtureRequest, api_cluster: Cluster) -> AsyncIterator[KubeApi]:
    if request.param == "in memory":
        yield FakeKube()
        return
    await asyncio.to_thread(api_cluster.install_crds, [DIRECTORY])
    settings = KubeSettings(kubeconfig=str(api_cluster.kubeconfig))
    async with await open_kube(settings, environ={}) as client:
        yield client


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def _meta(name: str, **more: Any) -> JsonObject:
    return {"metadata": {"name": name, "namespace": "default", **more}}


def _task(name: str, node: str, **meta: Any) -> JsonObject:
    spec = {
        "snapshotRef": {"apiGroup": names.GROUP, "kind": "SandboxSnapshot", "name": "s"},
        "snapshotUID": "u1",
        "snapshotMode": "Fork",
        "targetSandboxRef": SANDBOX,
        "targetNodeName": node,
        "providerName": "snapstart.qemu.org",
        "snapshotKey": "s-0123456789-fork-g1-r1",
        "snapshotHash": "sha256:" + "0" * 64,
        "operation": "Create",
    }
    return {**_meta(name, **meta), "spec": spec}


def _snapshot(name: str, **meta: Any) -> JsonObject:
    source = {"apiGroup": names.EXTENSIONS_GROUP, "kind": "SandboxTemplate", "name": "python"}
    spec = {"snapshotMode": "Fork", "sourceRef": source, "snapshotClassName": "qemu"}
    return {**_meta(name, **meta), "spec": spec}


async def test_status_is_written_apart(api: KubeApi, name: str) -> None:
    made = await api.create(TASKS, {**_task(name, "n"), "status": {"phase": "Ready"}})
    assert "status" not in made
    status = {"status": {"phase": "Creating"}}
    written = await api.merge(TASKS, name, status, namespace="default", subresource="status")
    assert written["status"]["phase"] == "Creating"
    same = await api.merge(TASKS, name, {"status": None}, namespace="default")
    assert same["status"]["phase"] == "Creating"
    labelled = {**written, "metadata": {**written["metadata"], "labels": {"a": "b"}}}
    ignored = await api.replace(TASKS, labelled, subresource="status")
    assert ignored["metadata"]["generation"] == 1


async def test_a_write_that_changes_nothing_makes_no_version(api: KubeApi, name: str) -> None:
    made = await api.create(CONFIG_MAPS, {**_meta(name), "data": {"a": "1"}})
    same = await api.merge(CONFIG_MAPS, name, {"data": {"a": "1"}}, namespace="default")
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_a_generation_counts_changes_of_what_is_desired(api: KubeApi, name: str) -> None:
    await api.create(SNAPSHOTS, _snapshot(name))
    labelled = await api.merge(
        SNAPSHOTS, name, {"metadata": {"labels": {"a": "b"}}}, namespace="default"
    )
    assert labelled["metadata"]["generation"] == 1
    policy = {"spec": {"forkPolicy": {"rebuildAfter": "1h"}}}
    changed = await api.merge(SNAPSHOTS, name, policy, namespace="default")
    assert changed["metadata"]["generation"] == 2


async def test_a_finalizer_holds_until_it_is_gone(api: KubeApi, name: str) -> None:
    held = names.SNAPSHOT_FINALIZER
    await api.create(SNAPSHOTS, _snapshot(name, finalizers=[held]))
    await api.delete(SNAPSHOTS, name, namespace="default")
    going = await api.get(SNAPSHOTS, name, "default")
    assert going["metadata"]["deletionTimestamp"]
    assert going["metadata"]["generation"] == 2
    await api.delete(SNAPSHOTS, name, namespace="default")
    more = {"metadata": {"finalizers": [held, "example.com/more"]}}
    with pytest.raises(RejectedError):
        await api.merge(SNAPSHOTS, name, more, namespace="default")
    with pytest.raises(AlreadyExistsError):
        await api.create(SNAPSHOTS, _snapshot(name))
    await api.merge(SNAPSHOTS, name, {"metadata": {"finalizers": None}}, namespace="default")
    with pytest.raises(NotFoundError):
        await api.get(SNAPSHOTS, name, "default")


@pytest.mark.parametrize(
    ("precondition", "refusal"), [("resourceVersion", ConflictError), ("uid", RejectedError)]
)
async def test_a_patch_may_name_what_it_expects(
    api: KubeApi, name: str, precondition: str, refusal: type[Exception]
) -> None:
    made = await api.create(CONFIG_MAPS, _meta(name))
    right = {"metadata": {precondition: made["metadata"][precondition]}, "data": {"a": "1"}}
    await api.merge(CONFIG_MAPS, name, right, namespace="default")
    wrong = {"metadata": {precondition: "1"}, "data": {"a": "2"}}
    with pytest.raises(refusal):
        await api.merge(CONFIG_MAPS, name, wrong, namespace="default")


async def test_an_update_of_the_object_before_conflicts(api: KubeApi, name: str) -> None:
    before = await api.create(CONFIG_MAPS, _meta(name))
    await api.delete(CONFIG_MAPS, name, namespace="default")
    after = await api.create(CONFIG_MAPS, _meta(name))
    mixed = {**before["metadata"], "resourceVersion": after["metadata"]["resourceVersion"]}
    with pytest.raises(ConflictError):
        await api.replace(CONFIG_MAPS, {**after, "metadata": mixed})


async def test_an_update_needs_a_version_where_it_is_demanded(api: KubeApi, name: str) -> None:
    await api.create(TASKS, _task(name, "n"))
    with pytest.raises(RejectedError):
        await api.replace(TASKS, _task(name, "n"))
    with pytest.raises(NotFoundError):
        await api.replace(TASKS, _task(name + "-x", "n", resourceVersion="1"))


async def test_a_lease_taken_by_two_conflicts(api: KubeApi, name: str) -> None:
    made = await api.create(LEASES, {**_meta(name), "spec": {"holderIdentity": "a"}})
    await api.replace(LEASES, {**made, "spec": {"holderIdentity": "b"}})
    with pytest.raises(ConflictError):
        await api.replace(LEASES, {**made, "spec": {"holderIdentity": "c"}})


async def test_a_node_watches_only_its_own_tasks(api: KubeApi, name: str) -> None:
    fields = f"spec.targetNodeName={name}"
    page = await api.list(TASKS, fields=fields)
    assert page.items == ()
    await api.create(TASKS, _task(f"{name}-other", "another"))
    await api.create(TASKS, _task(f"{name}-mine", name))
    await api.merge(
        TASKS, f"{name}-mine", {"status": {"phase": "Ready"}}, namespace="default",
        subresource="status",
    )  # fmt: skip
    await api.delete(TASKS, f"{name}-mine", namespace="default")
    events = await _watch(api, TASKS, page.resource_version, 3, fields=fields)
    assert [(event.kind, event.body["metadata"]["name"]) for event in events] == [
        (WatchKind.ADDED, f"{name}-mine"),
        (WatchKind.MODIFIED, f"{name}-mine"),
        (WatchKind.DELETED, f"{name}-mine"),
    ]
    versions = [int(event.body["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))


async def test_a_watch_sees_an_object_leave_its_selection(api: KubeApi, name: str) -> None:
    page = await api.list(CONFIG_MAPS, labels=f"test={name}")
    await api.create(CONFIG_MAPS, _meta(name, labels={"test": name}))
    await api.merge(
        CONFIG_MAPS, name, {"metadata": {"labels": {"test": None}}}, namespace="default"
    )
    events = await _watch(api, CONFIG_MAPS, page.resource_version, 2, labels=f"test={name}")
    assert [event.kind for event in events] == [WatchKind.ADDED, WatchKind.DELETED]


async def _watch(api: KubeApi, resource: Any, version: str, count: int, **scope: str) -> Any:
    events: list[WatchEvent] = []
    watch = api.watch(resource, resource_version=version, **scope)
    async for event in watch:
        if event.kind is not WatchKind.BOOKMARK:
            events.append(event)
        if len(events) == count:
            break
    await watch.aclose()  # type: ignore[attr-defined]
    return events


async def test_applied_fields_have_owners(api: KubeApi, name: str) -> None:
    def body(**data: str) -> JsonObject:
        return {**_meta(name), "data": data}

    await api.apply(CONFIG_MAPS, body(a="1", b="1"), manager="one")
    with pytest.raises(ConflictError):
        await api.apply(CONFIG_MAPS, body(a="2"), manager="two")
    shared = await api.apply(CONFIG_MAPS, body(a="1"), manager="two")
    assert shared["data"] == {"a": "1", "b": "1"}
    dropped = await api.apply(CONFIG_MAPS, body(b="1"), manager="one")
    assert dropped["data"] == {"a": "1", "b": "1"}
    dropped = await api.apply(CONFIG_MAPS, body(), manager="two")
    assert dropped["data"] == {"b": "1"}
    taken = await api.apply(CONFIG_MAPS, body(b="2"), manager="two", force=True)
    assert taken["data"] == {"b": "2"}


async def test_conditions_of_two_managers_stand_side_by_side(api: KubeApi, name: str) -> None:
    await api.create(NODES, {"metadata": {"name": name}})
    for kind in ("Ready", "Other"):
        status = {"conditions": [{"type": kind, "status": "True"}]}
        body = {"metadata": {"name": name}, "status": status}
        await api.apply(NODES, body, manager=kind, subresource="status")
    found = (await api.get(NODES, name))["status"]["conditions"]
    assert {condition["type"] for condition in found} >= {"Ready", "Other"}
    await api.delete(NODES, name)


async def test_a_bound_pod_waits_for_its_node(api: KubeApi, name: str) -> None:
    container = {"name": "main", "image": "example.test/none:1"}
    spec = {"containers": [container], "nodeName": "nowhere", "terminationGracePeriodSeconds": 7}
    try:
        made = await api.create(PODS, {**_meta(name), "spec": spec})
    except ControlPlaneError as exc:
        pytest.skip(f"this API server makes no Pods without service accounts: {exc}")
    await api.delete(PODS, name, namespace="default")
    going = (await api.get(PODS, name, "default"))["metadata"]
    assert going["deletionGracePeriodSeconds"] == 7
    with pytest.raises(ConflictError):
        await api.delete(PODS, name, namespace="default", uid="another", grace_s=0)
    await api.delete(PODS, name, namespace="default", uid=made["metadata"]["uid"], grace_s=0)
    with pytest.raises(NotFoundError):
        await api.get(PODS, name, "default")


async def test_what_is_not_there_is_not_there(api: KubeApi, name: str) -> None:
    calls = (
        api.get(TASKS, name, "default"),
        api.merge(TASKS, name, {}, namespace="default"),
        api.delete(TASKS, name, namespace="default"),
        api.apply(TASKS, {**_meta(name), "status": {"phase": "Ready"}}, manager="m",
                  subresource="status"),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(NotFoundError):
            await call
