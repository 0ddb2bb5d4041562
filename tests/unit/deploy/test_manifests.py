"""The plain manifests: they parse, fit together, grant what is listed here and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml  # type: ignore[import-untyped]

from agentd.settings import load_settings
from controlplane.api import names
from controlplane.api.kuasar import validate_kuasar_class
from controlplane.api.types import SandboxSnapshot, SnapshotClass
from controlplane.api.validation import validate_class, validate_snapshot
from controlplane.runtimes.public_key import SECRET
from controlplane.runtimes.types import CodeInterpreter
from controlplane.sessions.app import MUTATE_PATH, VALIDATE_PATH
from controlplane.settings import load_settings as controlplane_settings
from tests.kube.rights import rights_granted

ROOT = Path(__file__).parents[3] / "deploy"
KUBERNETES = ROOT / "kubernetes"
NAMESPACE = "agentcube-system"
SANDBOXES = names.SANDBOX_GROUP


def load(path: Path) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all(path.read_text()) if item]


OBJECTS = [item for path in sorted(KUBERNETES.glob("*.yaml")) for item in load(path)]
EXAMPLES = [item for path in sorted((KUBERNETES / "examples").glob("*")) for item in load(path)]


def find(kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
    [found] = [
        item
        for item in OBJECTS
        if (item["kind"], item.get("metadata", {}).get("name")) == (kind, name)
        and (namespace is None or item["metadata"].get("namespace") == namespace)
    ]
    return found


def test_every_binding_names_a_role_and_a_subject_that_are_here() -> None:
    bindings = [item for item in OBJECTS if item["kind"].endswith("RoleBinding")]
    for binding in bindings:
        reference, namespace = binding["roleRef"], binding["metadata"].get("namespace")
        find(reference["kind"], reference["name"], namespace)
        for subject in binding["subjects"]:
            if subject["kind"] == "ServiceAccount":
                find("ServiceAccount", subject["name"], subject["namespace"])
            else:
                assert subject["name"] == "snapstart:agents"
    bound = {(item["roleRef"]["kind"], item["roleRef"]["name"]) for item in bindings}
    roles = {
        (item["kind"], item["metadata"]["name"])
        for item in OBJECTS
        if item["kind"] in ("Role", "ClusterRole")
    }
    # Replacing Pods is a right that an administrator gives by binding it.
    assert bound == roles - {("ClusterRole", "snapstart-agentd-replacing")}


def test_the_kustomization_lists_every_file() -> None:
    listed = set(load(KUBERNETES / "kustomization.yaml")[0]["resources"])
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert listed == files | {"../crds"}
    crds = load(ROOT / "crds" / "kustomization.yml")[0]["resources"]
    assert set(crds) == {path.name for path in (ROOT / "crds").glob("*.yaml")}


def webhooks() -> Iterator[dict[str, Any]]:
    yield from find("MutatingWebhookConfiguration", "snapstart")["webhooks"]
    yield from find("ValidatingWebhookConfiguration", "snapstart")["webhooks"]


def test_no_webhook_can_stop_or_slow_down_the_cluster() -> None:
    for hook in webhooks():
        assert hook["failurePolicy"] == "Ignore"
        assert hook["timeoutSeconds"] == 2
        assert hook["sideEffects"] == "None"
        assert hook["admissionReviewVersions"] == ["v1"]


def test_webhooks_call_the_service_where_it_listens() -> None:
    service = find("Service", "snapstart-controlplane")
    paths = []
    for hook in webhooks():
        target = hook["clientConfig"]["service"]
        assert (target["namespace"], target["name"]) == (NAMESPACE, service["metadata"]["name"])
        assert target["port"] in [port["port"] for port in service["spec"]["ports"]]
        paths.append(target["path"])
    assert paths == [MUTATE_PATH, VALIDATE_PATH]


def test_every_write_of_a_sandbox_is_seen_but_not_in_the_systems_namespaces() -> None:
    [hook] = find("MutatingWebhookConfiguration", "snapstart")["webhooks"]
    [rule] = hook["rules"]
    assert (rule["apiGroups"], rule["resources"]) == ([SANDBOXES], ["sandboxes"])
    assert rule["operations"] == ["CREATE", "UPDATE"]
    [expression] = hook["namespaceSelector"]["matchExpressions"]
    assert expression["operator"] == "NotIn"
    assert set(expression["values"]) == {"kube-system", NAMESPACE}


def test_the_deployment_has_two_replicas_without_privileges() -> None:
    spec = find("Deployment", "snapstart-controlplane")["spec"]
    assert spec["replicas"] == 2
    pod = spec["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    [container] = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    ports = {port["name"] for port in container["ports"]}
    service = find("Service", "snapstart-controlplane")["spec"]
    assert {port["targetPort"] for port in service["ports"]} <= ports
    assert service["selector"].items() <= spec["template"]["metadata"]["labels"].items()


def test_the_manifests_are_what_the_settings_default_to() -> None:
    [container] = find("Deployment", "snapstart-controlplane")["spec"]["template"]["spec"][
        "containers"
    ]
    environ = {one["name"]: one.get("value", NAMESPACE) for one in container["env"]}
    settings = controlplane_settings(None, environ)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"webhooks": settings.webhooks.port, "metrics": settings.http.port}
    assert settings.program.namespace == NAMESPACE
    find("Service", settings.webhooks.service, NAMESPACE)
    find("MutatingWebhookConfiguration", settings.webhooks.configuration)
    find("ValidatingWebhookConfiguration", settings.webhooks.configuration)
    assert {settings.webhooks.secret, SECRET} <= {
        right.name for right in rights_granted([find("Role", "snapstart-controlplane")])
    }
    [user] = settings.program.users
    find("ServiceAccount", user.split(":")[-1], user.split(":")[-2])


def of_its_pod(variable: dict[str, Any]) -> str:
    """What a kubelet would put in."""
    field = variable["valueFrom"]["fieldRef"]["fieldPath"]
    told = {"metadata.namespace": NAMESPACE, "spec.nodeName": "node-a", "status.podIP": "10.0.0.7"}
    return told[field]


def test_the_agent_has_no_privileges_and_mounts_directories_not_sockets() -> None:
    pod = find("DaemonSet", "snapstart-agentd")["spec"]["template"]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    [container] = pod["containers"]
    security = container["securityContext"]
    assert "privileged" not in security
    assert security["allowPrivilegeEscalation"] is False
    host = [volume["hostPath"] for volume in pod["volumes"] if "hostPath" in volume]
    assert host
    assert all(path["type"].startswith("Directory") for path in host)
    environ = {one["name"]: one.get("value") or of_its_pod(one) for one in container["env"]}
    node = load_settings(None, environ, uid=0).node
    assert (node.enabled, node.virtual, node.name) == (True, False, "node-a")
    assert node.namespace == NAMESPACE
    assert pod["nodeSelector"]


def test_the_runtime_class_leads_to_virtual_nodes_alone() -> None:
    found = find("RuntimeClass", names.RUNTIME_CLASS)
    assert found["scheduling"]["nodeSelector"] == {names.VIRTUAL_NODE: "true"}
    [toleration] = found["scheduling"]["tolerations"]
    assert toleration["key"] == names.VIRTUAL_NODE


def test_the_policy_knows_our_names() -> None:
    text = msgspec.json.encode(find("ValidatingAdmissionPolicy", "snapstart-agentd")).decode()
    for name in (
        *(names.VIRTUAL_NODE, names.PROVIDER_LABEL_PREFIX, "snapstart:agentd:"),
        *(f"'{names.STARTED_FROM}'", f"'{names.STARTED_FROM_REASON}'"),
    ):
        assert name in text
    assert f"'{names.agent_lease('')}'" in text
    assert f"substring({len('snapstart:agentd:')})" in text


def test_the_examples_are_valid() -> None:
    classes = [
        msgspec.convert(item, SnapshotClass) for item in EXAMPLES if item["kind"] == "SnapshotClass"
    ]
    snapshots = [
        msgspec.convert(item, SandboxSnapshot)
        for item in EXAMPLES
        if item["kind"] == "SandboxSnapshot"
    ]
    owners = [
        msgspec.convert(item, CodeInterpreter)
        for item in EXAMPLES
        if item["kind"] == "CodeInterpreter"
    ]
    assert {one.spec.provider_name for one in classes} == {
        "snapstart.qemu.org",
        "snapstart.kuasar.io",
    }
    by_name = {one.metadata.name: one for one in classes}
    for one in classes:
        assert validate_class(one) == []
        assert validate_kuasar_class(one) == []
    for snapshot in snapshots:
        wanted = by_name[snapshot.spec.snapshot_class_name]
        assert validate_snapshot(snapshot, wanted) == []
        assert snapshot.spec.source_ref.name in [owner.metadata.name for owner in owners]
    [owner] = owners
    assert owner.spec.template.runtime_class_name == names.RUNTIME_CLASS
