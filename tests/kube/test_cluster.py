"""The cluster that other tests run against does what a cluster does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.kube.api import Api, ApiError
from tests.kube.assets import Assets
from tests.kube.cluster import APISERVER, ETCD, MANAGER, Cluster
from tests.kube.objects import (
    SANDBOX_GROUP,
    fake_node,
    fresh_namespace,
    heartbeat,
    pods,
    sandbox,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with fresh_namespace(cluster) as name:
        yield name


@pytest.fixture
def sandbox_namespace(sandbox_cluster: Cluster) -> Iterator[str]:
    with fresh_namespace(sandbox_cluster) as name:
        yield name


def test_an_api_server_of_the_pinned_version_answers(api_cluster: Cluster) -> None:
    version = api_cluster.api.get("/version")
    assert version["major"] == "1"
    assert version["gitVersion"].startswith(f"v1.{version['minor']}.")


def test_one_without_a_role_may_read_nothing(api_cluster: Cluster) -> None:
    pair = api_cluster.identities.issue("stranger")
    stranger = Api(api_cluster.url, api_cluster.identities.ca, pair)
    with pytest.raises(ApiError, match="Forbidden"):
        stranger.get("/api/v1/namespaces/default/secrets")


def test_a_service_account_token_names_its_account(cluster: Cluster) -> None:
    config = cluster.kubeconfig_for_account("default", "default")
    said = cluster.kubectl(f"--kubeconfig={config}", "auth", "whoami")
    assert "system:serviceaccount:default:default" in said


def test_crds_of_agent_sandbox_and_agentcube_are_served(sandbox_cluster: Cluster) -> None:
    served = sandbox_cluster.api.get(f"/apis/{SANDBOX_GROUP}")
    versions = [row["version"] for row in served["versions"]]
    wanted = {"v1alpha1": ["v1alpha1"], "v1beta1": ["v1beta1", "v1alpha1"]}
    assert versions == wanted[str(sandbox_cluster.sandbox_version)]
    resource = sandbox_cluster.api.resource
    group = "runtime.agentcube.volcano.sh/v1alpha1"
    assert resource(group, "CodeInterpreter") == ("codeinterpreters", True)
    assert resource(group, "AgentRuntime") == ("agentruntimes", True)
    extensions = f"extensions.{SANDBOX_GROUP}/{sandbox_cluster.sandbox_version}"
    assert resource(extensions, "SandboxWarmPool") == ("sandboxwarmpools", True)


def test_a_sandbox_becomes_a_pod_that_the_scheduler_binds(
    sandbox_cluster: Cluster, sandbox_namespace: str
) -> None:
    version = str(sandbox_cluster.sandbox_version)
    with fake_node(sandbox_cluster) as node:
        sandbox_cluster.apply([sandbox(sandbox_namespace, "one", version, node)])

        def bound() -> list[dict[str, Any]]:
            heartbeat(sandbox_cluster, node)
            found = pods(sandbox_cluster, sandbox_namespace)
            return [pod for pod in found if pod["spec"].get("nodeName") == node]

        sandbox_cluster.wait_for("a bound pod", lambda: len(bound()) == 1)
        (pod,) = bound()
    assert pod["metadata"]["annotations"]["example.test/mark"] == "kept"
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("Sandbox", "one", True)


def test_the_pod_of_a_deleted_sandbox_is_collected(
    sandbox_cluster: Cluster, sandbox_namespace: str
) -> None:
    version = str(sandbox_cluster.sandbox_version)
    one = sandbox(sandbox_namespace, "one", version, "no-such-node")
    sandbox_cluster.apply([one])
    sandbox_cluster.wait_for("a pod", lambda: bool(pods(sandbox_cluster, sandbox_namespace)))
    sandbox_cluster.api.delete(sandbox_cluster.api.path_of(one))
    sandbox_cluster.wait_for("no pod", lambda: not pods(sandbox_cluster, sandbox_namespace))


def test_a_warm_pool_makes_its_sandboxes_from_a_template(
    sandbox_cluster: Cluster, sandbox_namespace: str
) -> None:
    version = str(sandbox_cluster.sandbox_version)
    sandbox_cluster.apply(warm_pool(sandbox_namespace, version, replicas=2))
    sandbox_cluster.wait_for("two pods", lambda: len(pods(sandbox_cluster, sandbox_namespace)) == 2)


def warm_pool(namespace: str, version: str, *, replicas: int) -> list[dict[str, Any]]:
    """A template with a pool of it."""
    api_version = f"extensions.{SANDBOX_GROUP}/{version}"
    pod = sandbox(namespace, "one", version, "no-such-node")["spec"]["podTemplate"]
    metadata = {"name": "one", "namespace": namespace}
    pool = {"replicas": replicas, "sandboxTemplateRef": {"name": "one"}}
    return [
        {
            "apiVersion": api_version,
            "kind": "SandboxTemplate",
            "metadata": metadata,
            "spec": {"podTemplate": pod},
        },
        {
            "apiVersion": api_version,
            "kind": "SandboxWarmPool",
            "metadata": metadata,
            "spec": pool,
        },
    ]


def test_the_old_version_of_a_sandbox_is_converted_by_the_controller(
    cluster: Cluster, namespace: str
) -> None:
    new = sandbox(namespace, "one", "v1beta1", "no-such-node")
    new["spec"]["operatingMode"] = "Suspended"
    cluster.apply([new])
    old = {**new, "apiVersion": f"{SANDBOX_GROUP}/v1alpha1"}
    assert cluster.api.get(cluster.api.path_of(old))["spec"]["replicas"] == 0


def test_the_pods_of_a_silent_node_are_evicted_while_another_node_lives(
    cluster: Cluster, namespace: str
) -> None:
    # Of nodes that are all silent nothing is evicted: then the cluster suspects itself.
    with fake_node(cluster) as silent, fake_node(cluster) as living:
        cluster.apply([sandbox(namespace, "one", "v1beta1", silent)])

        def is_bound() -> bool:
            for node in (silent, living):
                heartbeat(cluster, node)
            return [pod["spec"].get("nodeName") for pod in pods(cluster, namespace)] == [silent]

        def is_evicted() -> bool:
            heartbeat(cluster, living)
            return any("deletionTimestamp" in pod["metadata"] for pod in pods(cluster, namespace))

        cluster.wait_for("a bound pod", is_bound)
        cluster.wait_for("an evicted pod", is_evicted, deadline_s=90)
        taints = cluster.api.get(f"/api/v1/nodes/{silent}")["spec"]["taints"]
    found = {(row["key"], row["effect"]) for row in taints}
    assert ("node.kubernetes.io/unreachable", "NoExecute") in found


@pytest.mark.restarts
@pytest.mark.parametrize("part", [APISERVER, ETCD])
def test_what_was_written_survives_the_death_of(part: str, api_cluster: Cluster) -> None:
    name = f"kept-{uuid.uuid4().hex[:8]}"
    path = f"/api/v1/namespaces/default/configmaps/{name}"
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    api_cluster.apply([{**item, "data": {"key": "value"}}])
    kill = {APISERVER: api_cluster.kill_apiserver, ETCD: api_cluster.kill_etcd}[part]
    restart = {APISERVER: api_cluster.restart_apiserver, ETCD: api_cluster.restart_etcd}[part]
    kill()
    with pytest.raises((OSError, ApiError)):
        api_cluster.api.call("PUT", path, {**item, "data": {"key": "lost"}}, timeout_s=2)
    restart()
    assert api_cluster.api.get(path)["data"] == {"key": "value"}


def processes_of(directory: Path) -> list[psutil.Process]:
    """The processes whose command line names a directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(directory) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_stopping_leaves_no_process(kube_assets: Assets, tmp_path: Path) -> None:
    with Cluster(tmp_path, assets=kube_assets) as cluster:
        names = {process.name() for process in processes_of(tmp_path)}
        assert {APISERVER, ETCD, MANAGER[:15]} <= {name[:15] for name in names}
        cluster.check()
    assert not processes_of(tmp_path)


OWNER = """
import sys, time
from pathlib import Path
from tests.kube.cluster import Cluster
with Cluster(Path(sys.argv[1]), controller_manager=False, scheduler=False):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_killed_owner_leaves_no_process(kube_assets: Assets, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    argv = [sys.executable, "-c", OWNER, str(home)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "ready\n"
            theirs = [process for process in processes_of(home) if process.pid != owner.pid]
            assert len(theirs) == 2
        finally:
            os.kill(owner.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs(theirs, timeout=30)
    assert len(gone) == 2
    assert not alive
