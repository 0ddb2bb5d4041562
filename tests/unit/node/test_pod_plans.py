"""What of a Pod a machine runs, with which environment, from what it starts."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from agentd.errors import ErrorCode, PeerError, TransientError
from agentd.image.manifest import FileRecord, ImageManifest, PackageRecord
from agentd.image.spec import ImageSpec
from agentd.node.pod_env import Environment, Source, resolve_env, sources_of
from agentd.node.pod_restore import Cold, Fork, choose_fallback, choose_start
from agentd.node.pod_spec import (
    Bounds,
    PodPlan,
    Refusal,
    find_image,
    parse_quantity,
    plan_pod,
    refuse_image,
)
from agentd.node.pod_types import Pod
from agentd.providers.driver import LocalArtifact, SnapshotOwner
from controlplane.api import names
from controlplane.api.types import SnapshotMode
from tests.adapters.guest.keys import make_key, public_pem

BOUNDS = Bounds(memory_mib=512, vcpus=1, max_memory_mib=4096, max_vcpus=2)
TOKEN = {"name": "kube-api-access-x7k2p", "projected": {"sources": []}}


def pod(container: dict[str, Any] | None = None, meta: Any = None, **spec: Any) -> Pod:
    whole = {"name": "main", "image": "python:3.11", **(container or {})}
    return msgspec.convert(
        {
            "metadata": {"name": "p", "namespace": "team", "uid": "u", **(meta or {})},
            "spec": {"nodeName": "n", "containers": [whole], **spec},
        },
        Pod,
        strict=False,
    )


def planned(*args: Any, **spec: Any) -> PodPlan:
    plan = plan_pod(pod(*args, **spec), BOUNDS)
    assert isinstance(plan, PodPlan), plan
    return plan


def test_a_plain_pod_gets_the_nodes_shape() -> None:
    plan = planned(volumes=[TOKEN, {"name": "tmp", "emptyDir": {}}])
    assert (plan.memory_mib, plan.vcpus, plan.ports) == (512, 1, (8080,))
    assert (plan.hostname, plan.key, plan.has_gate) == ("p", "", False)


@pytest.mark.parametrize(
    ("resources", "shape"),
    [
        ({"limits": {"memory": "1Gi", "cpu": "1500m"}}, (1024, 2)),
        ({"requests": {"memory": "100Mi", "cpu": "100m"}}, (512, 1)),
        ({"limits": {"memory": 2**31}}, (2048, 1)),
    ],
    ids=["limits", "small requests", "plain bytes"],
)
def test_a_machine_has_what_the_container_asks_for(resources: Any, shape: tuple[int, int]) -> None:
    plan = planned({"resources": resources})
    assert (plan.memory_mib, plan.vcpus) == shape


def test_ports_key_and_gate_are_read() -> None:
    ports = [{"containerPort": 80}, {"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]
    gate = [{"name": names.SESSION_GATE_ENV, "value": "true"}]
    plan = planned({"ports": ports, "env": gate}, {"annotations": {names.SNAPSHOT_KEY: "k"}})
    assert (plan.ports, plan.key, plan.has_gate) == ((80,), "k", True)


REFUSED: dict[str, dict[str, Any]] = {
    "command": {"container": {"command": ["sleep"]}},
    "args": {"container": {"args": ["1"]}},
    "workingDir": {"container": {"workingDir": "/srv"}},
    "lifecycle": {"container": {"lifecycle": {"preStop": {}}}},
    "memory of 8192": {"container": {"resources": {"limits": {"memory": "8Gi"}}}},
    "9 processors": {"container": {"resources": {"limits": {"cpu": "9"}}}},
    "is not a quantity": {"container": {"resources": {"limits": {"cpu": "much"}}}},
    "2 containers": {"initContainers": [{"name": "i"}]},
    "namespaces of the host": {"hostNetwork": True},
    "'data'": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]},
    "'conf'": {"volumes": [{"name": "conf", "configMap": {"name": "c"}}]},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_no_machine_can_be_is_refused(words: str) -> None:
    refusal = plan_pod(pod(**REFUSED[words]), BOUNDS)
    assert isinstance(refusal, Refusal)
    assert words in refusal.message


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("500m", "0.5"), ("1Gi", 2**30), ("1.5k", 1500), ("2e3", 2000), ("1T", 10**12)],
)
def test_quantities_are_the_apis(text: str, value: Any) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "1.2.3", "1Zi", "-1", "Gi"])
def test_what_is_no_quantity_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("python:3.11", "tagged"),
        ("python:3.12", "any"),
        ("python@sha256:00", "any"),
        ("reg:5000/python:1", "registry"),
        ("snapstart.local/python:3.11", "newest"),
        ("docker.io/library/other", ""),
    ],
)
def test_images_are_found_by_reference_and_never_guessed(reference: str, found: str) -> None:
    images = {"python": "any", "python:3.11": "tagged", "reg:5000/python": "registry"}
    assert find_image(reference, images, "newest") == found


# -- environment ----------------------------------------------------------------------------------


def env(*variables: dict[str, Any], sources: Any = None, **container: Any) -> Any:
    found = pod({"env": list(variables), **container}, {"labels": {"app": "x"}})
    resolved = resolve_env(
        found, found.spec.containers[0], sources or {}, pod_ip="127.88.0.1", host_ip="10.0.0.1"
    )
    has_key = isinstance(resolved, Environment) and resolved.auth_key
    return resolved if isinstance(resolved, Refusal) or has_key else resolved.variables


def field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def test_values_fields_and_references_are_resolved() -> None:
    assert env(
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)$$(A)$(NONE)"},
        field("NS", "metadata.namespace"),
        field("APP", "metadata.labels['app']"),
        field("IP", "status.podIP"),
        {"name": names.SESSION_GATE_ENV, "value": "true"},
    ) == {"A": "1", "B": "1$(A)$(NONE)", "NS": "team", "APP": "x", "IP": "127.88.0.1"}


def key_ref(kind: str, **more: Any) -> dict[str, Any]:
    return {"name": "S", "valueFrom": {kind: {"name": "s", "key": "k", **more}}}


def test_secrets_and_maps_are_read_as_a_whole_and_by_key() -> None:
    secret = Source("Secret", "s")
    found = pod({"env": [key_ref("secretKeyRef")], "envFrom": [{"configMapRef": {"name": "c"}}]})
    assert sources_of(found.spec.containers[0]) == (secret, Source("ConfigMap", "c"))
    sources = {secret: {"k": "v"}, Source("ConfigMap", "c"): {"x": "1"}}
    whole = [{"configMapRef": {"name": "c"}, "prefix": "P_"}]
    assert env(key_ref("secretKeyRef"), sources=sources, envFrom=whole) == {"S": "v", "P_x": "1"}


def test_what_is_optional_may_be_missing() -> None:
    assert env(key_ref("secretKeyRef", optional=True)) == {}
    assert env(envFrom=[{"secretRef": {"name": "s", "optional": True}}]) == {}


def auth_key(pem: str) -> dict[str, Any]:
    return {"name": "PICOD_AUTH_PUBLIC_KEY", "value": pem}


def test_the_key_is_taken_out_of_the_variables() -> None:
    pem = public_pem(make_key("router"))
    assert env(auth_key(pem), {"name": "A", "value": "1"}) == Environment({"A": "1"}, pem)
    reference = key_ref("secretKeyRef") | {"name": "PICOD_AUTH_PUBLIC_KEY"}
    assert env(reference, sources={Source("Secret", "s"): {"k": pem}}) == Environment({}, pem)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ([key_ref("configMapKeyRef")], "has no key"),
        ([field("X", "spec.unknown")], "spec.unknown"),
        ([{"name": "X", "valueFrom": {"resourceFieldRef": {}}}], "valueFrom"),
        ([{"name": "PATH", "value": "/x"}], "PATH"),
        ([{"name": "LD_PRELOAD", "value": "/x"}], "LD_PRELOAD"),
        ([auth_key("")], "does not start with"),
        ([auth_key("garbage")], "does not start with"),
        ([auth_key(public_pem(make_key("weak", 1024)))], "1024 of 2048 bits"),
    ],
    ids=["missing key", "unknown field", "resource", "path", "loader", *("no", "bad", "weak")],
)
def test_a_variable_that_cannot_be_is_a_refusal(variables: Any, words: str) -> None:
    refusal = env(*variables)
    assert isinstance(refusal, Refusal)
    assert words in refusal.message


# -- the image -------------------------------------------------------------------------------------


def manifest(*packages: str) -> ImageManifest:
    record = FileRecord("f", "0" * 64, 1)
    return ImageManifest(
        format_version=1,
        key="k",
        created_at="",
        kernel=record,
        initrd=record,
        kernel_release="6.1",
        modules=(),
        preload=(),
        python="/usr/bin/python3.11",
        cmdline=(),
        packages=tuple(PackageRecord(name, "1", "amd64", "0" * 64, 1) for name in packages),
        notes=(),
    )


def test_an_image_that_cannot_check_tokens_is_refused_before_it_boots() -> None:
    refusal = refuse_image("python:3.11", manifest("python3-minimal", "python3-jwt"))
    assert refusal is not None
    assert refusal.reason == "SnapStartUnsupported"
    assert "`snapctl image build --package python3-cryptography`" in refusal.message


@pytest.mark.parametrize(
    "packages", [ImageSpec().wanted_packages, ("linux-image-cloud-amd64",)], ids=["ours", "rootfs"]
)
def test_an_image_that_can_or_that_nobody_knows_is_tried(packages: tuple[str, ...]) -> None:
    assert refuse_image("python:3.11", manifest(*packages)) is None


# -- fork or not ----------------------------------------------------------------------------------

OWNER = SnapshotOwner("c-1", "team", "python", "uid")
ARTIFACT = LocalArtifact(
    "k", "sha256:1", SnapshotMode.FORK, True, 0, datetime(2026, 1, 1, tzinfo=UTC), OWNER
)


def start(key: str = "k", namespace: str = "team", cluster: str = "c-1", **changes: Any) -> Any:
    found = None if changes.pop("is_gone", False) else ARTIFACT
    if found is not None:
        from dataclasses import replace

        found = replace(found, **changes)
    return choose_start(key, found, namespace=namespace, cluster=cluster)


def test_an_artifact_of_the_pods_namespace_is_forked() -> None:
    assert start() == Fork("k")
    assert start(key="") == Cold()


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("artifact_missing", {"is_gone": True}),
        ("wrong_namespace", {"namespace": "other"}),
        ("wrong_namespace", {"cluster": "another"}),
        ("wrong_namespace", {"owner": None}),
        ("wrong_mode", {"mode": None}),
        ("artifact_unusable", {"is_ready": False}),
        ("artifact_unusable", {"is_ready": False, "owner": None}),
    ],
)
def test_anything_else_starts_cold_with_a_reason(reason: str, changes: dict[str, Any]) -> None:
    decision = start(**changes)
    assert isinstance(decision, Cold)
    assert decision.reason == reason


def test_a_full_node_is_no_reason_to_boot() -> None:
    assert choose_fallback("k", TransientError(ErrorCode.NODE_FULL, "full")) is None
    fallback = choose_fallback("k", PeerError(ErrorCode.VMM_FAILED, "it died"))
    assert fallback is not None
    assert fallback.reason == "restore_failed"
