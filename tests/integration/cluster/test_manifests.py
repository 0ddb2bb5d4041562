"""A real API server takes the manifests; roles and the agents' policy do what they say."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from controlplane.api import names
from controlplane.api.crds import DIRECTORY
from tests.kube.api import Api, Object
from tests.kube.cluster import Cluster
from tests.kube.manifests import load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

KUBERNETES = DIRECTORY.parent / "kubernetes"
NAMESPACE = "agentcube-system"
CONTROL_PLANE = f"system:serviceaccount:{NAMESPACE}:snapstart-controlplane"
AGENT = f"system:serviceaccount:{NAMESPACE}:snapstart-agentd"
LABEL = names.provider_label("snapstart.kuasar.io")


@pytest.fixture(scope="module")
def installed(api_cluster: Cluster) -> Cluster:
    return install(api_cluster)


@pytest.fixture(scope="module")
def installed_beside_agent_sandbox(cluster: Cluster) -> Cluster:
    return install(cluster)


def install(cluster: Cluster) -> Cluster:
    cluster.install_crds([DIRECTORY])
    for path in ("namespace", "rbac-controlplane", "rbac-agentd", "agentd-policy", "runtimeclass"):
        cluster.apply(load(KUBERNETES / f"{path}.yaml"))
    wait_for_policy(cluster)
    return cluster


def wait_for_policy(cluster: Cluster) -> None:
    """A policy is in force a moment after it is stored: try what it forbids until it is refused."""
    node = make_node(cluster.api)

    def is_in_force() -> bool:
        try:
            annotate(cluster, node, "node-x", as_agent(""))
        except subprocess.CalledProcessError:
            return True
        return False

    cluster.wait_for("the agents' policy in force", is_in_force)
    # A node that nobody keeps alive would keep every controller busy.
    cluster.api.delete(f"/api/v1/nodes/{node}")


def as_agent(node: str) -> list[str]:
    """kubectl options: the DaemonSet's agent of a node."""
    extra = [f"--as-user-extra=authentication.kubernetes.io/node-name={node}"] if node else []
    return [f"--as={AGENT}", *extra]


def as_unit(node: str) -> list[str]:
    """kubectl options: an agent under systemd."""
    return [f"--as=snapstart:agentd:{node}", "--as-group=snapstart:agents"]


def make_node(api: Api, **labels: str) -> str:
    name = f"node-{uuid.uuid4().hex[:8]}"
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    api.call("POST", "/api/v1/nodes", body)
    return name


def annotate(cluster: Cluster, node: str, value: str, who: list[str]) -> str:
    return cluster.kubectl("annotate", "--overwrite", "node", node, f"x={value}", *who)


def label(cluster: Cluster, node: str, change: str, who: list[str]) -> str:
    return cluster.kubectl("label", "--overwrite", "node", node, change, *who)


def refused(call: Any, *args: Any) -> str:
    """What the API server says to a refused call."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        call(*args)
    return str(caught.value.stderr)


def test_the_server_accepts_every_manifest(installed: Cluster) -> None:
    query = "?dryRun=All&fieldManager=test&force=true&fieldValidation=Strict"
    kinds = set()
    for path in sorted(KUBERNETES.glob("*.yaml")):
        for item in load(path):
            if item["kind"] == "Kustomization":
                continue
            if item["metadata"].get("namespace") == "kube-node-lease":
                continue  # the controller manager makes that namespace
            where = installed.api.path_of(item) + query
            made = installed.api.call(
                "PATCH", where, item, content_type="application/apply-patch+yaml"
            )
            kinds.add(made["kind"])
    assert {"Deployment", "DaemonSet", "MutatingWebhookConfiguration", "RuntimeClass"} <= kinds


def test_kustomize_builds_all_of_it(installed: Cluster) -> None:
    built = installed.kubectl("kustomize", str(KUBERNETES))
    assert built.count("kind: CustomResourceDefinition\n") == 3
    assert "kind: ValidatingAdmissionPolicyBinding" in built


@pytest.mark.parametrize("example", sorted(p.name for p in (KUBERNETES / "examples").iterdir()))
def test_the_server_accepts_the_examples(cluster: Cluster, example: str) -> None:
    cluster.install_crds([DIRECTORY])
    [item] = load(KUBERNETES / "examples" / example)
    where = cluster.api.path_of(item) + "?dryRun=All&fieldManager=test&fieldValidation=Strict"
    made = cluster.api.call("PATCH", where, item, content_type="application/apply-patch+yaml")
    assert made["spec"]


def may(cluster: Cluster, who: str, verb: str, group: str, resource: str, **more: str) -> bool:
    """What the authorizer says."""
    plural, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    body: Object = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": who, "resourceAttributes": {**attributes, **more}},
    }
    reply = cluster.api.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    return bool(reply["status"]["allowed"])


def test_the_roles_allow_what_is_needed_and_refuse_the_rest(installed: Cluster) -> None:
    runtime, here = names.GROUP, {"namespace": NAMESPACE}
    allowed: list[tuple[str, str, str, str, dict[str, str]]] = [
        (CONTROL_PLANE, "patch", runtime, "sandboxsnapshots/status", {}),
        (CONTROL_PLANE, "create", runtime, "sandboxsnapshottasks", {}),
        (CONTROL_PLANE, "update", "coordination.k8s.io", "leases", here),
        (CONTROL_PLANE, "get", "", "secrets", {**here, "name": "picod-router-identity"}),
        (AGENT, "patch", runtime, "sandboxsnapshottasks/status", {}),
        (AGENT, "get", runtime, "sandboxsnapshots", {}),
        (AGENT, "patch", "", "nodes", {}),
        (AGENT, "patch", "", "nodes/status", {}),
        (AGENT, "watch", "", "pods", {}),
        (AGENT, "patch", "", "pods", {}),
        (AGENT, "update", "coordination.k8s.io", "leases", here),
    ]
    denied: list[tuple[str, str, str, str, dict[str, str]]] = [
        (CONTROL_PLANE, "patch", runtime, "sandboxsnapshottasks/status", {}),
        (CONTROL_PLANE, "delete", runtime, "sandboxsnapshots", {}),
        (CONTROL_PLANE, "get", "", "secrets", {**here, "name": "other"}),
        (CONTROL_PLANE, "list", "", "secrets", {}),
        (CONTROL_PLANE, "patch", "", "nodes", {}),
        (AGENT, "watch", runtime, "sandboxsnapshots", {}),
        (AGENT, "create", runtime, "sandboxsnapshottasks", {}),
        (AGENT, "create", "", "nodes", {}),
        (AGENT, "delete", "", "pods", {}),
        (AGENT, "patch", "", "pods/status", {}),
        (AGENT, "patch", "agents.x-k8s.io", "sandboxes", {}),
        (AGENT, "get", "", "secrets", here),
        (AGENT, "update", "coordination.k8s.io", "leases", {"namespace": "kube-node-lease"}),
    ]
    wrong = [one for one in allowed if not may(installed, *one[:4], **one[4])]
    wrong += [one for one in denied if may(installed, *one[:4], **one[4])]
    assert wrong == []


def test_an_agent_sets_and_removes_its_provider_label_on_its_own_node(installed: Cluster) -> None:
    node = make_node(installed.api, zone="a")
    label(installed, node, f"{LABEL}=true", as_agent(node))
    label(installed, node, f"{LABEL}-", as_agent(node))
    label(installed, node, f"{LABEL}=true", as_unit(node))


def test_an_agent_changes_nothing_else_of_a_node(installed: Cluster) -> None:
    node, who = make_node(installed.api, zone="a"), as_agent
    assert "its own Node alone" in refused(label, installed, node, f"{LABEL}=true", who("other"))
    assert "on which node it runs" in refused(label, installed, node, f"{LABEL}=true", who(""))
    assert "only labels under" in refused(label, installed, node, "zone=b", who(node))
    assert "only labels under" in refused(label, installed, node, "zone-", who(node))
    virtual = f"{names.VIRTUAL_NODE}=true"
    assert "only labels under" in refused(label, installed, node, virtual, who(node))
    assert "no annotations" in refused(annotate, installed, node, "1", who(node))
    taint = ("taint", "node", node, "a=b:NoSchedule")
    assert "nothing but labels" in refused(installed.kubectl, *taint, *who(node))


def apply_status(cluster: Cluster, body: Object, folder: Path, who: list[str]) -> str:
    """As agents do: without reading it first, for which they have no right."""
    file = folder / "status.json"
    file.write_text(json.dumps(body))
    argv = ("apply", "--server-side", "--subresource=status", "--validate=false", "-f", str(file))
    return cluster.kubectl(*argv, *who)


def node_status(node: str, **status: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": status}


def condition(node: str, kind: str) -> Object:
    return node_status(node, conditions=[{"type": kind, "status": "True", "reason": "Fine"}])


def test_an_agent_tells_of_its_sandboxer_and_nothing_else_of_a_nodes_status(
    installed: Cluster, tmp_path: Path
) -> None:
    node, who = make_node(installed.api), as_agent
    label(installed, node, "snapstart.agentcube.volcano.sh/kuasar=absent", who(node))
    told, ready = condition(node, "SnapStartSandboxer"), condition(node, "Ready")
    apply_status(installed, told, tmp_path, who(node))
    foreign = (apply_status, installed)
    assert "its own Node alone" in refused(*foreign, told, tmp_path, who("other"))
    assert "one condition" in refused(*foreign, ready, tmp_path, who(node))
    room = node_status(node, capacity={"cpu": "64"})
    assert "one condition" in refused(*foreign, room, tmp_path, who(node))


def test_an_agent_that_may_replace_pods_notes_it_on_their_sandbox_alone(
    installed_beside_agent_sandbox: Cluster,
) -> None:
    installed = installed_beside_agent_sandbox
    role = "--clusterrole=snapstart-agentd-replacing"
    name = f"r-{uuid.uuid4().hex[:8]}"
    account = f"--serviceaccount={NAMESPACE}:snapstart-agentd"
    installed.kubectl("create", "clusterrolebinding", name, role, account)
    sandbox = make_sandbox(installed)
    right = (AGENT, "patch", "agents.x-k8s.io", "sandboxes")
    try:
        installed.wait_for("the right to note it", lambda: may(installed, *right))
        key = "snapstart.agentcube.volcano.sh/replaced-pod"
        change = ("annotate", "--overwrite", "sandbox", sandbox)
        installed.kubectl(*change, f"{key}=u1", *as_agent("node-a"))
        assert "nothing else of it" in refused(installed.kubectl, *change, "x=2", *as_agent("n"))
        assert "nothing else of it" in refused(installed.kubectl, *change, "y-", *as_agent("n"))
        suspend = ("patch", "sandbox", sandbox, "--type=merge", "-p", '{"spec":{"podTemplate":'
                   '{"spec":{"containers":[{"name":"c","image":"i:2"}]}}}}')  # fmt: skip
        assert "nothing else of it" in refused(installed.kubectl, *suspend, *as_agent("n"))
    finally:
        installed.kubectl("delete", "clusterrolebinding", name)
        installed.kubectl("delete", "sandbox", sandbox)


def test_an_agent_notes_how_a_pod_of_its_node_started_and_changes_nothing_else_of_it(
    installed: Cluster, tmp_path: Path
) -> None:
    node = make_node(installed.api)
    pod = make_pod(installed, node)
    change = ("annotate", "--overwrite", "pod", pod)
    for noted in (f"{names.STARTED_FROM}=cold", f"{names.STARTED_FROM_REASON}=x"):
        installed.kubectl(*change, noted, *as_agent(node))
    installed.kubectl(*change, f"{names.STARTED_FROM_REASON}-", *as_unit(node))
    place = {"name": pod, "namespace": "default"}
    told = {"apiVersion": "v1", "kind": "Pod", "metadata": place, "status": {"message": "well"}}
    apply_status(installed, told, tmp_path, as_unit(node))
    noted = ("annotate", "--overwrite", "pod", pod, f"{names.STARTED_FROM}=snapshot")
    assert "its own node" in refused(installed.kubectl, *noted, *as_agent("other"))
    image = '{"spec":{"containers":[{"name":"c","image":"i:2"}]}}'
    for forbidden in (
        ("patch", "pod", pod, "-p", image),
        ("annotate", "--overwrite", "pod", pod, "x=2"),
        ("annotate", "--overwrite", "pod", pod, "y-"),
        ("label", "--overwrite", "pod", pod, "a=c"),
        ("patch", "pod", pod, "-p", '{"metadata":{"finalizers":["a.example/b"]}}'),
    ):
        for who in (as_agent(node), as_unit(node)):
            assert "nothing else of it" in refused(installed.kubectl, *forbidden, *who)
    installed.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    installed.api.delete(f"/api/v1/nodes/{node}")


def make_pod(cluster: Cluster, node: str) -> str:
    name = f"p-{uuid.uuid4().hex[:8]}"
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"a": "b"},
            "annotations": {"y": "1"},
        },
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i:1"}]},
    }
    cluster.apply([body])
    return name


def make_sandbox(cluster: Cluster) -> str:
    name = f"s-{uuid.uuid4().hex[:8]}"
    body = {
        "apiVersion": "agents.x-k8s.io/v1beta1",
        "kind": "Sandbox",
        "metadata": {"name": name, "namespace": "default", "annotations": {"y": "1"}},
        "spec": {"podTemplate": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}},
    }
    cluster.apply([body])
    return name


def test_a_virtual_node_is_its_agents_own(installed: Cluster, tmp_path: Path) -> None:
    name = f"node-{uuid.uuid4().hex[:8]}"
    text = (
        "{apiVersion: v1, kind: Node, metadata: {name: %s, labels: {%s: 'true'}}, "
        "spec: {taints: [{key: %s, effect: NoSchedule}]}}"
    )
    (tmp_path / "node.yaml").write_text(text % (name, names.VIRTUAL_NODE, names.VIRTUAL_NODE))
    create = ("create", "-f", str(tmp_path / "node.yaml"))
    assert "its own Node alone" in refused(installed.kubectl, *create, *as_unit("other"))
    installed.kubectl(*create, *as_unit(name))
    label(installed, name, "zone=a", as_unit(name))
    annotate(installed, name, "1", as_unit(name))
    assert "its own Node alone" in refused(annotate, installed, name, "2", as_unit("other"))


def test_an_agent_reports_only_tasks_of_its_node(installed: Cluster, tmp_path: Path) -> None:
    name = f"t-{uuid.uuid4().hex[:8]}"
    spec = {
        "snapshotRef": {"apiGroup": names.GROUP, "kind": "SandboxSnapshot", "name": "s"},
        "snapshotUID": "u1",
        "snapshotMode": "Fork",
        "targetSandboxRef": {"apiGroup": names.SANDBOX_GROUP, "kind": "Sandbox", "name": "b"},
        "targetNodeName": "node-a",
        "providerName": "snapstart.kuasar.io",
        "snapshotKey": "s-0123456789-fork-g1-r1",
        "snapshotHash": "sha256:" + "0" * 64,
    }
    body = {
        "apiVersion": names.API_VERSION,
        "kind": "SandboxSnapshotTask",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }
    installed.apply([body])
    report = {**body, "status": {"phase": "Creating"}}
    del report["spec"]
    change = (apply_status, installed, report, tmp_path)
    assert "tasks of its own node" in refused(*change, as_agent("node-b"))
    apply_status(installed, report, tmp_path, as_agent("node-a"))


def test_an_agent_keeps_only_its_own_lease(installed: Cluster, tmp_path: Path) -> None:
    for name in ("node-a", names.agent_lease("node-a"), "snapstart-controlplane"):
        lease = "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: %s}}"
        (tmp_path / f"{name}.yaml").write_text(lease % name)

    def create(name: str) -> str:
        file = str(tmp_path / f"{name}.yaml")
        return installed.kubectl("-n", NAMESPACE, "create", "-f", file, *as_agent("node-a"))

    create("node-a")
    create(names.agent_lease("node-a"))
    assert "its own Leases alone" in refused(create, "snapstart-controlplane")
