"""The API server in memory keeps the promises that the real one makes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.api.meta import JsonObject
from controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    NotFoundError,
    UnavailableError,
)
from controlplane.kube.api import KubeApi, WatchEvent, WatchKind
from controlplane.kube.resource import CONFIG_MAPS, NODES, PODS, SNAPSHOTS, TASKS, sandboxes
from tests.fakes.kube import FakeClient, FakeCluster, FakeKube


def _task(name: str = "a", node: str = "n1", **meta: Any) -> JsonObject:
    return {"metadata": {"name": name, "namespace": "x", **meta}, "spec": {"targetNodeName": node}}


def test_create_assigns_identity_and_drops_status() -> None:
    cluster = FakeCluster(now=lambda: datetime(2026, 1, 2, tzinfo=UTC), new_uid=lambda: "u1")
    made = cluster.create(TASKS, {**_task(), "status": {"phase": "Ready"}})
    meta = made["metadata"]
    assert (meta["uid"], meta["generation"], meta["creationTimestamp"]) == (
        "u1",
        1,
        "2026-01-02T00:00:00Z",
    )
    assert "status" not in made
    with pytest.raises(AlreadyExistsError):
        cluster.create(TASKS, _task())


def test_stale_replace_conflicts_and_status_is_its_own_resource() -> None:
    cluster = FakeCluster()
    made = cluster.create(TASKS, _task())
    with_status = cluster.replace(TASKS, {**made, "status": {"phase": "Ready"}, "spec": {}},
                                  subresource="status")  # fmt: skip
    assert with_status["spec"] == made["spec"]
    assert with_status["metadata"]["generation"] == 1
    with pytest.raises(ConflictError):
        cluster.replace(TASKS, made)
    changed = cluster.merge(TASKS, "a", {"spec": {"more": 1}, "status": None}, namespace="x")
    assert changed["status"] == {"phase": "Ready"}
    assert changed["metadata"]["generation"] == 2


def test_a_write_that_changes_nothing_makes_no_version() -> None:
    cluster = FakeCluster()
    made = cluster.create(TASKS, _task())
    assert cluster.merge(TASKS, "a", {"spec": {"targetNodeName": "n1"}}, namespace="x") == made


def test_finalizers_hold_an_object_until_the_last_is_gone() -> None:
    cluster = FakeCluster()
    cluster.create(SNAPSHOTS, _task(finalizers=["f"]))
    cluster.delete(SNAPSHOTS, "a", namespace="x")
    held = cluster.get(SNAPSHOTS, "a", "x")
    assert held["metadata"]["deletionTimestamp"]
    cluster.merge(SNAPSHOTS, "a", {"metadata": {"finalizers": None}}, namespace="x")
    with pytest.raises(NotFoundError):
        cluster.get(SNAPSHOTS, "a", "x")


def test_deletion_with_another_uid_is_a_conflict() -> None:
    cluster = FakeCluster()
    cluster.create(TASKS, _task())
    with pytest.raises(ConflictError):
        cluster.delete(TASKS, "a", namespace="x", uid="other")


def test_a_bound_pod_is_deleted_gracefully() -> None:
    cluster = FakeCluster()
    cluster.create(PODS, {"metadata": {"name": "p", "namespace": "x"}, "spec": {"nodeName": "n"}})
    cluster.delete(PODS, "p", namespace="x")
    assert cluster.get(PODS, "p", "x")["metadata"]["deletionGracePeriodSeconds"] == 30
    cluster.delete(PODS, "p", namespace="x", grace_s=0)
    assert cluster.objects(PODS) == ()


def test_garbage_collection_follows_owners() -> None:
    cluster = FakeCluster()
    owner = cluster.create(SNAPSHOTS, _task())["metadata"]
    middle = cluster.create(TASKS, _task(ownerReferences=[{"uid": owner["uid"]}]))["metadata"]
    cluster.create(CONFIG_MAPS, _task(ownerReferences=[{"uid": middle["uid"]}]))
    assert cluster.collect_garbage() == 0
    cluster.delete(SNAPSHOTS, "a", namespace="x")
    assert cluster.collect_garbage() == 2


def test_pages_cover_everything_once() -> None:
    cluster = FakeCluster()
    for n in range(5):
        cluster.create(TASKS, _task(f"t{n}"))
    found, page = [], ""
    while True:
        answer = cluster.list(TASKS, page=page, limit=2)
        found += [item["metadata"]["name"] for item in answer.items]
        page = answer.next_page
        if not page:
            break
    assert found == ["t0", "t1", "t2", "t3", "t4"]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [("a=1", True), ("a==1", True), ("a!=1", False), ("a", True), ("!a", False), ("!b", True),
     ("a in (1, 2)", True), ("a notin (1,2)", False), ("a=1,b", False)],
)  # fmt: skip
def test_label_selector(selector: str, expected: bool) -> None:
    cluster = FakeCluster()
    cluster.create(TASKS, _task(labels={"a": "1"}))
    assert bool(cluster.list(TASKS, labels=selector).items) is expected


def test_a_watch_sees_objects_enter_and_leave_its_selection() -> None:
    cluster = FakeCluster()
    watch = cluster.watch(
        TASKS, resource_version=cluster.list(TASKS).resource_version,
        fields="spec.targetNodeName=n1",
    )  # fmt: skip
    cluster.create(TASKS, _task(node="n2"))
    cluster.merge(TASKS, "a", {"spec": {"targetNodeName": "n1"}}, namespace="x")
    cluster.merge(TASKS, "a", {"spec": {"more": 1}}, namespace="x")
    cluster.merge(TASKS, "a", {"spec": {"targetNodeName": "n2"}}, namespace="x")
    kinds = [event.kind for event in watch.poll()]
    assert kinds == [WatchKind.ADDED, WatchKind.MODIFIED, WatchKind.DELETED]


def test_history_is_limited() -> None:
    cluster = FakeCluster(history_limit=2)
    version = cluster.list(TASKS).resource_version
    for n in range(2):
        cluster.create(TASKS, _task(f"t{n}"))
    assert len(cluster.watch(TASKS, resource_version=version).poll()) == 2
    cluster.create(TASKS, _task("t3"))
    with pytest.raises(ExpiredError):
        cluster.watch(TASKS, resource_version=version)


def test_apply_conflicts_with_another_managers_field_and_drops_its_own() -> None:
    cluster = FakeCluster()
    identity = {"metadata": {"name": "n"}}
    cluster.apply(NODES, {**identity, "spec": {"a": 1, "b": 1}}, manager="one")
    with pytest.raises(ConflictError):
        cluster.apply(NODES, {**identity, "spec": {"a": 2}}, manager="two")
    taken = cluster.apply(NODES, {**identity, "spec": {"a": 2}}, manager="two", force=True)
    assert taken["spec"] == {"a": 2, "b": 1}
    left = cluster.apply(NODES, {**identity, "spec": {}}, manager="one")
    assert left["spec"] == {"a": 2}


def test_applied_conditions_merge_by_type() -> None:
    cluster = FakeCluster()
    cluster.create(NODES, {"metadata": {"name": "n"}})
    for manager in ("one", "two"):
        status = {"conditions": [{"type": manager, "status": "True"}]}
        cluster.apply(NODES, {"metadata": {"name": "n"}, "status": status}, manager=manager,
                      subresource="status")  # fmt: skip
    assert len(cluster.get(NODES, "n")["status"]["conditions"]) == 2


def test_only_served_versions_exist() -> None:
    cluster = FakeCluster()
    assert cluster.preferred_version("agents.x-k8s.io") == "v1beta1"
    with pytest.raises(NotFoundError):
        cluster.list(sandboxes("v1alpha1"))


def test_faults_and_counts_are_the_clients_own() -> None:
    cluster = FakeCluster()
    one, two = FakeClient(cluster), FakeClient(cluster)
    one.fail_next("create", UnavailableError("away"), is_done=True)
    with pytest.raises(UnavailableError):
        one.call("create", TASKS, _task())
    assert two.call("get", TASKS, "a", "x")
    assert (one.writes, one.reads, two.writes, two.reads) == (1, 0, 0, 1)
    one.partition()
    with pytest.raises(UnavailableError):
        one.call("get", TASKS, "a", "x")
    one.heal()
    assert one.call("get", TASKS, "a", "x")


async def test_the_asynchronous_face_streams_and_ends() -> None:
    kube = FakeKube()
    api: KubeApi = kube
    seen: list[WatchEvent] = []

    started = asyncio.Event()

    async def follow() -> None:
        async for event in api.watch(TASKS, resource_version="1"):
            seen.append(event)
            started.set()

    task = asyncio.create_task(follow())
    await api.create(TASKS, _task())
    await started.wait()
    kube.cluster.send_bookmarks()
    kube.drop_watches()
    await task
    assert [event.kind for event in seen] == [WatchKind.ADDED, WatchKind.BOOKMARK]
    assert kube.cluster.open_watches == ()


async def test_a_broken_watch_raises_after_what_came_before() -> None:
    kube = FakeKube()
    watch = kube.watch(TASKS, resource_version="1")
    await kube.create(TASKS, _task())
    assert (await anext(watch)).kind is WatchKind.ADDED
    kube.partition()
    with pytest.raises(UnavailableError):
        await anext(watch)


def test_a_restored_backup_uses_versions_twice() -> None:
    cluster = FakeCluster()
    backup = cluster.backup()
    version = cluster.create(TASKS, _task())["metadata"]["resourceVersion"]
    cluster.restore(backup)
    assert cluster.objects(TASKS) == ()
    assert cluster.create(TASKS, _task("b"))["metadata"]["resourceVersion"] == version
