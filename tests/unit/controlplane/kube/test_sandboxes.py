"""One face for both versions of agent-sandbox."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controlplane.api import names
from controlplane.api.core import Pod, Sandbox
from controlplane.errors import ConfigError
from controlplane.kube.sandboxes import (
    SandboxVersion,
    choose_version,
    discover_sandboxes,
    is_pod_of,
    is_suspended,
    node_name,
    pod_name,
    running_spec,
)
from tests.fakes.kube import FakeCluster, FakeKube

GROUP, EXTENSIONS = names.SANDBOX_GROUP, names.EXTENSIONS_GROUP


def _sandbox(spec: dict[str, Any] | None = None, **status: str) -> Sandbox:
    body = {
        "metadata": {"name": "s", "namespace": "x", "uid": "u"},
        "spec": spec or {},
        "status": status,
    }
    return msgspec.convert(body, type=Sandbox)


def _pod(name: str = "s", uid: str = "u") -> Pod:
    owner = {"kind": "Sandbox", "name": "s", "uid": uid, "controller": True}
    meta = {"name": name, "namespace": "x", "ownerReferences": [owner]}
    return msgspec.convert({"metadata": meta, "spec": {"nodeName": "n"}}, type=Pod)


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (("v1alpha1",), "v1alpha1"),
        (("v1beta1", "v1alpha1"), "v1beta1"),
        (("v1", "v1alpha1", "v1beta1"), "v1beta1"),
        (("v1", "v1alpha1"), "v1alpha1"),
        ((), None),
    ],
)
def test_the_version_is_one_that_both_sides_know(
    served: tuple[str, ...], expected: str | None
) -> None:
    assert choose_version("g", served) == expected


def test_versions_that_nobody_here_knows_are_named() -> None:
    with pytest.raises(ConfigError, match="v2"):
        choose_version("g", ("v2",))


async def test_discovery_of_a_cluster_without_extensions() -> None:
    found = await discover_sandboxes(
        FakeKube(FakeCluster(served={GROUP: ("v1alpha1",), EXTENSIONS: ()}))
    )
    assert found.sandboxes.api_version == "agents.x-k8s.io/v1alpha1"
    assert (found.templates, found.warm_pools) == (None, None)


async def test_discovery_of_a_cluster_with_everything() -> None:
    found = await discover_sandboxes(FakeKube())
    assert found.version is SandboxVersion.V1BETA1
    assert found.templates is not None
    assert found.warm_pools is not None
    assert str(found.warm_pools) == "sandboxwarmpools.extensions.agents.x-k8s.io"


async def test_a_cluster_without_agent_sandbox_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="install agent-sandbox"):
        await discover_sandboxes(FakeKube(FakeCluster(served={GROUP: (), EXTENSIONS: ()})))


@pytest.mark.parametrize("version", SandboxVersion)
def test_a_running_sandbox_is_not_suspended(version: SandboxVersion) -> None:
    assert not is_suspended(_sandbox(running_spec(version)))


@pytest.mark.parametrize("spec", [{"replicas": 0}, {"operatingMode": "Suspended"}], ids=str)
def test_a_suspended_sandbox_is_seen_by_its_spec(spec: dict[str, Any]) -> None:
    assert is_suspended(_sandbox(spec))


def test_the_pods_name_is_the_annotations_else_the_sandboxs() -> None:
    meta = {"name": "s", "annotations": {names.POD_NAME: "p"}}
    assert pod_name(_sandbox()) == "s"
    assert pod_name(msgspec.convert({"metadata": meta}, type=Sandbox)) == "p"


def test_a_pod_that_only_has_the_name_is_not_the_sandboxs() -> None:
    assert is_pod_of(_pod(), _sandbox())
    assert not is_pod_of(_pod(uid="before"), _sandbox())
    assert not is_pod_of(_pod(name="other"), _sandbox())


def test_the_node_is_the_pods_else_the_sandboxs() -> None:
    assert node_name(_sandbox(), _pod()) == "n"
    assert node_name(_sandbox(), None) == ""
    assert node_name(_sandbox(nodeName="m"), None) == "m"
    assert node_name(_sandbox(), _pod(uid="before")) == ""
