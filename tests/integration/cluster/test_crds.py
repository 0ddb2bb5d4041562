"""A real API server takes our CRDs; each rule accepts the good, refuses the bad readably."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from controlplane.api import names
from controlplane.api.crds import DIRECTORY
from controlplane.api.meta import Condition
from controlplane.api.types import (
    ArtifactPhase,
    ConditionType,
    SandboxSnapshot,
    SandboxSnapshotStatus,
    SandboxSnapshotTaskStatus,
    SnapshotPhase,
)
from tests.kube.api import Api, ApiError, Object
from tests.kube.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ROOT = f"/apis/{names.API_VERSION}"
PATHS = {
    "SnapshotClass": f"{ROOT}/snapshotclasses",
    "SandboxSnapshot": f"{ROOT}/namespaces/default/sandboxsnapshots",
    "SandboxSnapshotTask": f"{ROOT}/namespaces/default/sandboxsnapshottasks",
}
FORK = {"apiGroup": names.EXTENSIONS_GROUP, "kind": "SandboxTemplate", "name": "python"}
SANDBOX = {"apiGroup": names.SANDBOX_GROUP, "kind": "Sandbox", "name": "s1"}
RESUME = {"snapshotMode": "Resume", "sourceRef": SANDBOX}
GOOD: dict[str, dict[str, Any]] = {
    "SnapshotClass": {"providerName": "snapstart.qemu.org", "supportedSnapshotModes": ["Fork"]},
    "SandboxSnapshot": {"snapshotMode": "Fork", "sourceRef": FORK, "snapshotClassName": "qemu"},
    "SandboxSnapshotTask": {
        "snapshotRef": {"apiGroup": names.GROUP, "kind": "SandboxSnapshot", "name": "s"},
        "snapshotUID": "u1",
        "snapshotMode": "Fork",
        "targetSandboxRef": SANDBOX,
        "targetNodeName": "node-a",
        "providerName": "snapstart.qemu.org",
        "snapshotKey": "s-0123456789-fork-g1-r1",
        "snapshotHash": "sha256:" + "0" * 64,
    },
}
CLASS, SNAPSHOT, TASK = GOOD


@pytest.fixture(scope="module")
def api(api_cluster: Cluster) -> Api:
    api_cluster.install_crds([DIRECTORY])
    return api_cluster.api


def create(api: Api, kind: str, **spec: Any) -> Object:
    """A good object but for what is given; None takes a member out."""
    merged = {k: v for k, v in {**GOOD[kind], **spec}.items() if v is not None}
    metadata = {"name": f"t-{uuid.uuid4().hex[:10]}"}
    body = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": metadata, "spec": merged}
    return api.call("POST", PATHS[kind], body)


def update(api: Api, stored: Object, **spec: Any) -> Object:
    body = {**stored, "spec": {**stored["spec"], **spec}}
    return api.call("PUT", f"{PATHS[stored['kind']]}/{stored['metadata']['name']}", body)


def merge_status(api: Api, stored: Object, status: Mapping[str, Any]) -> Object:
    path = f"{PATHS[stored['kind']]}/{stored['metadata']['name']}/status"
    patch = {"status": status}
    return api.call("PATCH", path, patch, content_type="application/merge-patch+json")


ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "plain class": (CLASS, {}),
    "class with everything": (
        CLASS,
        {
            "providerName": "a" * 45,
            "supportedSnapshotModes": ["Fork", "Resume"],
            "nodeSelector": {"topology.kubernetes.io/zone": "a", "empty": ""},
            "buildPodAnnotations": {"kuasar.io/warm-fork-ready-protocol-version": "1"},
        },
    ),
    "plain snapshot": (SNAPSHOT, {}),
    "resume": (SNAPSHOT, RESUME),
    "a minute": (SNAPSHOT, {"forkPolicy": {"rebuildAfter": "1m"}}),
    "a day": (SNAPSHOT, {"forkPolicy": {"rebuildAfter": "24h"}}),
    "mixed": (SNAPSHOT, {"forkPolicy": {"rebuildAfter": "1h30m0.5s"}}),
    "fraction": (SNAPSHOT, {"forkPolicy": {"rebuildAfter": "1.5h"}}),
    "plain task": (TASK, {}),
    "delete without sandbox": (TASK, {"operation": "Delete", "targetSandboxRef": {}}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no provider": (CLASS, {"providerName": ""}, "spec.providerName"),
    "long provider": (CLASS, {"providerName": "a" * 46}, "may not be more than 45"),
    "provider": (CLASS, {"providerName": "Kuasar.io"}, "spec.providerName"),
    "no modes": (CLASS, {"supportedSnapshotModes": []}, "spec.supportedSnapshotModes"),
    "mode twice": (CLASS, {"supportedSnapshotModes": ["Fork", "Fork"]}, "Duplicate value"),
    "other mode": (CLASS, {"supportedSnapshotModes": ["Copy"]}, '"Fork", "Resume"'),
    "selector value": (CLASS, {"nodeSelector": {"a": "b c"}}, "spec.nodeSelector.a"),
    "our annotation": (
        CLASS,
        {"buildPodAnnotations": {names.SNAPSHOT_KEY: "k"}},
        "annotations under agentcube.volcano.sh/ are SnapStart's own",
    ),
    "no mode": (SNAPSHOT, {"snapshotMode": None}, "spec.snapshotMode: Required"),
    "resume with a policy": (
        SNAPSHOT,
        {**RESUME, "forkPolicy": {}},
        "forkPolicy belongs to mode Fork",
    ),
    "fork of a sandbox": (SNAPSHOT, {"sourceRef": SANDBOX}, "from a SandboxTemplate of the API"),
    "fork without group": (
        SNAPSHOT,
        {"sourceRef": {"kind": "SandboxTemplate", "name": "x"}},
        "from a SandboxTemplate of the API",
    ),
    "resume of a template": (SNAPSHOT, {"snapshotMode": "Resume"}, "takes its source from a Sand"),
    "no source name": (SNAPSHOT, {"sourceRef": {**FORK, "name": ""}}, "spec.sourceRef.name"),
    "no class": (SNAPSHOT, {"snapshotClassName": ""}, "spec.snapshotClassName"),
    "seconds": (SNAPSHOT, {"forkPolicy": {"rebuildAfter": "59s"}}, "must be at least 1m"),
    "zero": (SNAPSHOT, {"forkPolicy": {"rebuildAfter": "0s"}}, "must be at least 1m"),
    "negative": (SNAPSHOT, {"forkPolicy": {"rebuildAfter": "-5m"}}, "should match"),
    "days": (SNAPSHOT, {"forkPolicy": {"rebuildAfter": "1d"}}, "should match"),
    "for ever": (SNAPSHOT, {"forkPolicy": {"rebuildAfter": "9999999999h"}}, "rebuildAfter"),
    "other snapshot": (TASK, {"snapshotRef": SANDBOX}, "snapshotRef must name a SandboxSnapshot"),
    "create without": (TASK, {"targetSandboxRef": {}}, "a Create task needs a Sandbox"),
    "no hash": (TASK, {"snapshotHash": "sha256:0"}, "spec.snapshotHash"),
    "no node": (TASK, {"targetNodeName": ""}, "spec.targetNodeName"),
    "long key": (TASK, {"snapshotKey": "k" * 64}, "may not be more than 63"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_good_is_accepted(api: Api, case: str) -> None:
    kind, spec = ACCEPTED[case]
    assert create(api, kind, **spec)["metadata"]["uid"]


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_bad_is_refused_with_the_reason(api: Api, case: str) -> None:
    kind, spec, message = REFUSED[case]
    with pytest.raises(ApiError) as caught:
        create(api, kind, **spec)
    assert caught.value.status == 422
    assert message in str(caught.value)


def test_what_identifies_an_object_cannot_change(api: Api) -> None:
    changes: dict[str, tuple[dict[str, Any], str]] = {
        CLASS: ({"providerName": "other.org"}, "create another SnapshotClass"),
        SNAPSHOT: ({"sourceRef": {**FORK, "name": "x"}}, "create another SandboxSnapshot"),
        TASK: ({"targetNodeName": "node-b"}, "the spec of a task cannot be changed"),
    }
    for kind, (change, message) in changes.items():
        stored = create(api, kind)
        with pytest.raises(ApiError, match=message):
            update(api, stored, **change)
        assert update(api, stored)["metadata"]["uid"] == stored["metadata"]["uid"]
    with pytest.raises(ApiError, match="snapshotMode cannot be changed"):
        update(api, create(api, SNAPSHOT), **RESUME)


def test_the_class_and_the_policy_of_a_snapshot_can_change(api: Api) -> None:
    stored = create(api, SNAPSHOT)
    new = update(api, stored, snapshotClassName="other", forkPolicy={"rebuildAfter": "2h"})
    assert new["spec"]["forkPolicy"] == {"rebuildAfter": "2h", "rebuildOnSourceChange": True}
    assert new["metadata"]["generation"] == 2


def test_a_task_is_a_create_unless_it_says_otherwise(api: Api) -> None:
    assert create(api, TASK)["spec"]["operation"] == "Create"


def test_a_node_lists_only_its_own_tasks(api: Api) -> None:
    node = f"node-{uuid.uuid4().hex[:8]}"
    mine = create(api, TASK, targetNodeName=node)
    create(api, TASK)
    found = api.get(f"{PATHS[TASK]}?fieldSelector=spec.targetNodeName%3D{node}")["items"]
    assert [item["metadata"]["uid"] for item in found] == [mine["metadata"]["uid"]]


def test_a_status_of_the_controller_is_stored_and_read_back(api: Api) -> None:
    stored = create(api, SNAPSHOT)
    condition = Condition(type=ConditionType.READY, status="True", reason="Promoted")
    status = SandboxSnapshotStatus(
        phase=SnapshotPhase.READY,
        target_node_count=2,
        ready_node_count=2,
        conditions=(condition,),
        message="on 2 nodes",
    )
    after = merge_status(api, stored, msgspec.to_builtins(status))
    assert msgspec.convert(after, SandboxSnapshot).status == status
    assert after["metadata"]["generation"] == 1
    path = f"{PATHS[SNAPSHOT]}/{stored['metadata']['name']}/status"
    replaced = api.call("PUT", path, {**after, "status": msgspec.to_builtins(status)})
    assert msgspec.convert(replaced, SandboxSnapshot).status == status


def test_a_status_of_an_agent_is_stored(api: Api) -> None:
    status = SandboxSnapshotTaskStatus(phase=ArtifactPhase.READY, attempts=1, pod_uid="p")
    after = merge_status(api, create(api, TASK), msgspec.to_builtins(status))
    assert after["status"] == {"phase": "Ready", "attempts": 1, "podUID": "p"}


@pytest.mark.parametrize(
    "status",
    [{"phase": "Done"}, {"readyNodeCount": -1}, {"conditions": [{"type": "Ready"}]}],
    ids=str,
)
def test_a_wrong_status_is_refused(api: Api, status: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        merge_status(api, create(api, SNAPSHOT), status)
    assert caught.value.status == 422


def test_kubectl_prints_the_columns_by_the_short_name(api: Api, api_cluster: Cluster) -> None:
    stored = create(api, SNAPSHOT)
    merge_status(api, stored, {"phase": "Ready", "readyNodeCount": 2, "targetNodeCount": 3})
    name = stored["metadata"]["name"]
    head, row = api_cluster.kubectl("get", "sbsnap", name).splitlines()
    assert head.split() == ["NAME", "MODE", "PHASE", "READY", "AGE"]
    assert row.split()[:4] == [name, "Fork", "Ready", "2"]
    wide = api_cluster.kubectl("get", "sbsnap", name, "-o", "wide").splitlines()[0]
    assert wide.split()[5:] == ["TARGET", "SOURCE", "CLASS", "MESSAGE"]
    assert "PROVIDER" in api_cluster.kubectl("get", "snapclass")
    assert "NODE" in api_cluster.kubectl("get", "sbtask")
    assert "such as 24h" in api_cluster.kubectl("explain", "sbsnap.spec.forkPolicy.rebuildAfter")
