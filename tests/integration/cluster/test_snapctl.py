"""snapctl's cluster commands against a real API server; the test plays the controller."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agentd.cli.snapctl import snapctl
from agentd.errors import ErrorCode
from controlplane.api import names
from controlplane.api.crds import DIRECTORY
from tests.kube.api import Api, ApiError
from tests.kube.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

Run = Callable[..., Result]
PATH = f"/apis/{names.API_VERSION}/namespaces/default/sandboxsnapshots"
MERGE = "application/merge-patch+json"


@pytest.fixture(scope="module")
def api(api_cluster: Cluster) -> Api:
    api_cluster.install_crds([DIRECTORY])
    return api_cluster.api


@pytest.fixture
def run(api: Api, api_cluster: Cluster) -> Run:
    def invoke(*args: str) -> Result:
        config = str(api_cluster.kubeconfig)
        return CliRunner().invoke(snapctl, [*args, "--kubeconfig", config])

    return invoke


@pytest.fixture
def name() -> str:
    return f"py-{uuid.uuid4().hex[:8]}"


def create(run: Run, name: str, *more: str) -> Result:
    return run("snapshot", "create", name, "--template", "python", "--class", "qemu", *more)


def set_status(api: Api, name: str, **status: Any) -> None:
    api.call("PATCH", f"{PATH}/{name}/status", {"status": status}, content_type=MERGE)


def annotate(api: Api, name: str, **annotations: str | None) -> None:
    patch = {"metadata": {"annotations": annotations}}
    api.call("PATCH", f"{PATH}/{name}", patch, content_type=MERGE)


def ready(api: Api, name: str, at: str) -> None:
    annotate(api, name, **{names.FORCE_REBUILD: None})
    set_status(
        api, name, phase="Ready", readyAt=at, targetNodeCount=2, readyNodeCount=2, conditions=[]
    )


def test_a_snapshot_is_created_listed_described_removed(run: Run, api: Api, name: str) -> None:
    made = create(run, name, "--rebuild-after", "24h", "--keep-on-change")
    assert made.exit_code == 0, made.stderr
    assert made.stdout == f"snapshot {name} is Pending\n"
    stored = api.get(f"{PATH}/{name}")["spec"]
    assert stored["forkPolicy"] == {"rebuildAfter": "24h", "rebuildOnSourceChange": False}
    ready(api, name, "2030-01-01T00:00:00Z")
    [row] = [line for line in run("snapshot", "ls").stdout.splitlines() if name in line]
    assert row.split()[:6] == ["default", name, "Ready", "2/2", "python", "qemu"]
    every = json.loads(run("snapshot", "ls", "-A", "--json").stdout)["snapshots"]
    assert name in [one["metadata"]["name"] for one in every]
    detail = run("snapshot", "describe", name)
    assert detail.exit_code == 0, detail.stderr
    assert "2 wanted: 2 ready" in detail.stdout
    assert "24h" in detail.stdout
    assert json.loads(run("snapshot", "describe", name, "--json").stdout)["tasks"] == []
    gone = run("snapshot", "rm", name, "--wait")
    assert gone.stdout == f"removed {name}\n"
    with pytest.raises(ApiError):
        api.get(f"{PATH}/{name}")


def test_mistakes_have_codes_of_their_own(run: Run, name: str) -> None:
    missing = run("snapshot", "describe", name)
    assert missing.exit_code == ErrorCode.OBJECT_NOT_FOUND.exit_code
    assert name in missing.stderr
    assert run("snapshot", "rm", name).exit_code == ErrorCode.OBJECT_NOT_FOUND.exit_code
    assert create(run, name).exit_code == 0
    assert create(run, name).exit_code == ErrorCode.OBJECT_EXISTS.exit_code
    bad = create(run, "Bad_Name")
    assert bad.exit_code == ErrorCode.REQUEST_INVALID.exit_code
    assert "Bad_Name" in bad.stderr


def test_why_without_agent_sandbox_says_what_is_missing(run: Run) -> None:
    result = run("why", "s1")
    assert result.exit_code == ErrorCode.CONFIG_INVALID.exit_code
    assert "agent-sandbox" in result.stderr


def test_a_rebuild_is_waited_for_until_the_new_version_serves(
    run: Run, api: Api, api_cluster: Cluster, name: str
) -> None:
    assert create(run, name).exit_code == 0
    ready(api, name, "2030-01-01T00:00:00Z")

    def is_asked() -> bool:
        annotations = api.get(f"{PATH}/{name}")["metadata"].get("annotations", {})
        return names.FORCE_REBUILD in annotations

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, "snapshot", "rebuild", name, "--wait", "--timeout", "60")
        api_cluster.wait_for("the order to rebuild", is_asked)
        ready(api, name, "2030-01-02T00:00:00Z")
        result = waiting.result()
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"snapshot {name} is rebuilt\n"


def test_a_failed_build_ends_the_wait_with_its_reason(run: Run, api: Api, name: str) -> None:
    assert create(run, name).exit_code == 0
    set_status(api, name, phase="Failed", message="no node matches")
    result = run("snapshot", "rebuild", name)
    assert result.stdout == f"snapshot {name} will be rebuilt\n"
    annotate(api, name, **{names.FORCE_REBUILD: None})
    again = create(run, f"{name}-2", "--wait", "--timeout", "0")
    assert again.exit_code == ErrorCode.DEADLINE_EXCEEDED.exit_code
    assert "snapshot describe" in again.stderr


def test_why_tells_of_a_real_sandbox(cluster: Cluster) -> None:
    name = f"s-{uuid.uuid4().hex[:8]}"
    container = {"name": "c", "image": "x"}
    metadata = {
        "name": name,
        "namespace": "default",
        "annotations": {names.COLD_START_REASON: "hash_mismatch"},
    }
    body = {
        "apiVersion": "agents.x-k8s.io/v1beta1",
        "kind": "Sandbox",
        "metadata": metadata,
        "spec": {"podTemplate": {"spec": {"containers": [container]}}},
    }
    cluster.apply([body])
    result = CliRunner().invoke(
        snapctl, ["why", name, "--json", "--kubeconfig", str(cluster.kubeconfig)]
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["start"], found["reason"]) == ("cold", "hash_mismatch")
    cluster.api.delete(f"/apis/agents.x-k8s.io/v1beta1/namespaces/default/sandboxes/{name}")
