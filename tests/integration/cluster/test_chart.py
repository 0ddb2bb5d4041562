"""The chart: a real API server takes what Helm makes of it; removed, it leaves what is named."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from agentd.tracing import check_endpoint
from controlplane.api.crds import DIRECTORY
from tests.kube.api import ApiError, Object
from tests.kube.assets import Assets
from tests.kube.cluster import Cluster
from tests.kube.rights import ROLES, read_list, rights_granted, rights_listed

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

DEPLOY = DIRECTORY.parent
CHART = DEPLOY / "helm" / "snapstart"
PROFILES = sorted(path.name for path in CHART.glob("values*.yaml"))
NAMESPACE = "agentcube-system"
EVERYTHING = (
    *("--set", "monitoring.serviceMonitor.enabled=true", "--set", "monitoring.rules.enabled=true"),
    *("--set", "monitoring.dashboard.enabled=true", "--set", "agentd.replaceStuck=true"),
    *("--set", "tracing.endpoint=http://$(NODE_IP):4318"),
)

each_profile = pytest.mark.parametrize("profile", PROFILES)


class Helm:
    """Helm, with a home of its own, started where the pages' commands are."""

    def __init__(self, program: Path, home: Path, kubeconfig: Path) -> None:
        self._program = program
        self._env = {**os.environ, "HOME": str(home), "KUBECONFIG": str(kubeconfig)}

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [str(self._program), *args]
        return subprocess.run(
            argv,
            env=self._env,
            cwd=DEPLOY.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def done(self, *args: str) -> str:
        """What a command printed that has to succeed."""
        ran = self.run(*args)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def template(self, *args: str) -> list[Object]:
        """What the chart renders to."""
        argv = ("template", "snapstart", str(CHART), "-n", NAMESPACE, "--kube-version", "1.34.0")
        return [item for item in yaml.safe_load_all(self.done(*argv, *args)) if item]


@pytest.fixture(scope="module")
def crowded(cluster: Cluster, kube_assets: Assets) -> Cluster:
    """A cluster with a Prometheus operator's CRDs, and the namespace."""
    cluster.install_crds([kube_assets.prometheus_crds()])
    name = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.apply([name])
    return cluster


@pytest.fixture
def helm(kube_assets: Assets, crowded: Cluster, tmp_path: Path) -> Helm:
    return Helm(kube_assets.helm(), tmp_path, crowded.kubeconfig)


def kinds(items: list[Object]) -> set[str]:
    return {item["kind"] for item in items}


@each_profile
def test_lint_finds_nothing(helm: Helm, profile: str) -> None:
    helm.done("lint", "--strict", str(CHART), "-f", str(CHART / profile))


@each_profile
def test_the_server_accepts_every_object(helm: Helm, crowded: Cluster, profile: str) -> None:
    items = helm.template("-f", str(CHART / profile), *EVERYTHING)
    assert [item["kind"] for item in items].count("CustomResourceDefinition") == 3
    for item in items:
        dry_run(crowded, item)
    for item in items:
        if item["kind"] in ("Deployment", "DaemonSet", "StatefulSet"):
            dry_run(crowded, pod_of(item), of=item)


def dry_run(cluster: Cluster, item: Object, of: Object | None = None) -> None:
    query = "?dryRun=All&fieldManager=test&force=true&fieldValidation=Strict"
    try:
        where = cluster.api.path_of(item) + query
        cluster.api.call("PATCH", where, item, content_type="application/apply-patch+yaml")
    except ApiError as exc:
        pytest.fail(f"{(of or item)['kind']} {item['metadata']['name']}: {exc}", pytrace=False)


def pod_of(owner: Object) -> Object:
    """A Pod as the owner's controller would make it."""
    template = owner["spec"]["template"]
    spec = {**template["spec"]}
    # Accounts of the chart are not there in a dry run, and a claim is its controller's to make.
    spec.pop("serviceAccountName", None)
    for claim in owner["spec"].get("volumeClaimTemplates", ()):
        volume = {"name": claim["metadata"]["name"], "emptyDir": {}}
        spec["volumes"] = [*spec.get("volumes", ()), volume]
    metadata = {**template["metadata"], "name": "dry", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("controlPlane.replcas=3", "replcas"),
        ("controlPlane.replicas=0", "/controlPlane/replicas"),
        ("image.digest=latest", "/image/digest"),
        ("agentd.nodeSelector=null", "agentd.nodeSelector says which nodes"),
        ("controlPlane.settings.log=debug", "log"),
        ("store.own.maxMemory=lots", "/store/own/maxMemory"),
        ("tracing.endpoint=collector:4317", "/tracing/endpoint"),
        ("tracing.endpoint=http://user@collector", "/tracing/endpoint"),
        ("agentd.settings.HTTP__PORT=1", "agentd.settings.HTTP__PORT is the chart's to set"),
        ("controlPlane.settings.HTTP__PORT=1", "controlPlane.settings.HTTP__PORT is the chart's"),
    ],
)
def test_values_that_mean_nothing_are_refused(helm: Helm, wrong: str, said: str) -> None:
    ran = helm.run("template", "x", str(CHART), "--kube-version", "1.34.0", "--set", wrong)
    assert ran.returncode != 0
    assert said in ran.stderr


def test_profiles_hold_what_their_nodes_need(helm: Helm) -> None:
    def has(profile: str) -> set[str]:
        return kinds(helm.template("-f", str(CHART / f"values-{profile}.yaml")))

    assert "DaemonSet" in has("kuasar")
    assert "RuntimeClass" not in has("kuasar")
    assert "DaemonSet" not in has("direct")
    assert {"RuntimeClass", "PodDisruptionBudget", "StatefulSet"} <= has("direct")
    assert "PodDisruptionBudget" not in has("single")


def test_settings_reach_the_programs(helm: Helm) -> None:
    items = helm.template(
        *("--set", "agentd.settings.LOG__LEVEL=debug"),
        *("--set", "controlPlane.settings.LEADER__LEASE=other", "--set-string", "image.tag=9"),
    )
    owners = {item["kind"]: item for item in items if item["kind"] in ("Deployment", "DaemonSet")}
    for kind, expected in (
        ("DaemonSet", {"SNAPSTART_LOG__LEVEL": "debug"}),
        ("Deployment", {"SNAPSTART_CONTROLPLANE_LEADER__LEASE": "other"}),
    ):
        [container] = owners[kind]["spec"]["template"]["spec"]["containers"]
        given = {one["name"]: one.get("value") for one in container["env"]}
        assert expected.items() <= given.items()
        assert container["image"] == "snapstart:9"


def test_a_setting_of_the_charts_own_gives_way_and_is_given_once(helm: Helm) -> None:
    name, path = "KUASAR__ADMIN_SOCKET", "/host/run/other.sock"
    items = helm.template("--set", f"agentd.settings.{name}={path}", *EVERYTHING)
    for owner in (one for one in items if one["kind"] in ("Deployment", "DaemonSet")):
        [container] = owner["spec"]["template"]["spec"]["containers"]
        names = [one["name"] for one in container["env"]]
        assert len(names) == len(set(names))
        given = {one["name"]: one.get("value") for one in container["env"]}
        assert owner["kind"] == "Deployment" or given[f"SNAPSTART_{name}"] == path


@each_profile
def test_no_profile_grants_a_right_that_is_not_listed(helm: Helm, profile: str) -> None:
    items = helm.template("-f", str(CHART / profile), *EVERYTHING)
    roles = [one for one in items if one["kind"] in ROLES]
    assert roles
    assert rights_granted(roles) - rights_listed(read_list()) == set()


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.observability:4318", 4318),
        ("http://$(NODE_IP):4318", 4318),
        ("http://[$(NODE_IP)]:4318", 4318),
        ("https://collector.example/otlp", 443),
        ("http://collector.example", 80),
    ],
)
def test_both_programs_reach_the_collector_of_traces(helm: Helm, endpoint: str, port: int) -> None:
    items = helm.template("--set", f"tracing.endpoint={endpoint}")
    for kind, name in (("DaemonSet", "SNAPSTART"), ("Deployment", "SNAPSTART_CONTROLPLANE")):
        [owner] = (item for item in items if item["kind"] == kind)
        [container] = owner["spec"]["template"]["spec"]["containers"]
        # What a variable refers to has to stand before it.
        names = [one["name"] for one in container["env"]]
        assert names.index("NODE_IP") < names.index(f"{name}_TRACING__ENDPOINT")
        given = {one["name"]: one.get("value") for one in container["env"]}
        assert given[f"{name}_TRACING__ENDPOINT"] == endpoint
    seen = endpoint.replace("$(NODE_IP)", "::1" if "[" in endpoint else "10.0.0.7")
    assert check_endpoint(seen) == ""
    for program in ("snapstart-agentd", "snapstart-controlplane"):
        assert port in open_ports(items, program)
        assert 4318 not in open_ports(helm.template(), program)


def test_the_control_plane_reaches_a_store_with_sentinels(helm: Helm) -> None:
    ports = "networkPolicy.storePorts={6380,26379}"
    assert {6380, 26379} <= open_ports(helm.template("--set", ports), "snapstart-controlplane")
    assert 6379 in open_ports(helm.template(), "snapstart-controlplane")


def open_ports(items: list[Object], program: str) -> set[int]:
    """Where a program may connect to, by its policy."""
    [policy] = (
        item
        for item in items
        if item["kind"] == "NetworkPolicy" and item["metadata"]["name"] == program
    )
    return {one["port"] for rule in policy["spec"]["egress"] for one in rule.get("ports", ())}


def test_rules_of_prometheus_come_whole(helm: Helm) -> None:
    [rule] = (i for i in helm.template(*EVERYTHING) if i["kind"] == "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((DEPLOY / "monitoring/alerts.yaml").read_text())
    [board] = (
        i for i in helm.template(*EVERYTHING) if i["metadata"]["name"] == "snapstart-dashboard"
    )
    assert json.loads(board["data"]["snapstart.json"])["uid"] == "snapstart"


def test_no_password_is_where_others_read_it(helm: Helm) -> None:
    items = helm.template("--set", "store.own.enabled=true")
    [secret] = (
        item
        for item in items
        if item["kind"] == "Secret" and item["metadata"]["name"] == "snapstart-store"
    )
    password = secret["stringData"]["VALKEY_PASSWORD"]
    assert len(password) == 40
    others = [item for item in items if item["kind"] != "Secret"]
    assert password not in json.dumps(others)


def test_the_plain_manifests_are_the_chart_with_its_defaults(
    kube_assets: Assets, tmp_path: Path
) -> None:
    copy = tmp_path / "deploy"
    subprocess.run(["cp", "-r", str(DEPLOY), str(copy)], check=True)
    env = {**os.environ, "HELM": str(kube_assets.helm()), "HOME": str(tmp_path)}
    argv = [sys.executable, str(copy / "helm" / "render")]
    subprocess.run(argv, env=env, check=True, timeout=100)
    done = subprocess.run(
        ["diff", "-r", str(DEPLOY), str(copy)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "", "run deploy/helm/render"


@pytest.fixture
def fresh(kube_assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that has nothing of ours yet."""
    with Cluster(tmp_path_factory.mktemp("fresh"), assets=kube_assets, scheduler=False) as cluster:
        yield cluster


def password_of(cluster: Cluster) -> str:
    argv = ("-n", NAMESPACE, "get", "secret", "snapstart-store", "-o", "jsonpath={.data}")
    return str(json.loads(cluster.kubectl(*argv))["VALKEY_PASSWORD"])


def commands(page: str) -> list[list[str]]:
    """The commands of docs/helm.md, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_the_page_installs_upgrades_and_removes(
    kube_assets: Assets, fresh: Cluster, tmp_path: Path
) -> None:
    helm = Helm(kube_assets.helm(), tmp_path, fresh.kubeconfig)
    page = (DEPLOY.parent / "docs" / "helm.md").read_text()
    install, upgrade, uninstall, *rest = commands(page)
    assert "say what is to be kept warm" in helm.done(*install[1:])
    first = password_of(fresh)
    helm.done(*upgrade[1:])
    assert password_of(fresh) == first
    replicas = fresh.kubectl(
        *("-n", NAMESPACE, "get", "deployment", "snapstart-controlplane"),
        *("-o", "jsonpath={.spec.replicas}"),
    )
    assert replicas == "3"
    helm.done(*uninstall[1:])
    names = "deployments,statefulsets,secrets,services,roles,networkpolicies,poddisruptionbudgets"
    left = fresh.kubectl("-n", NAMESPACE, "get", names, "-o", "name").split()
    assert [name for name in left if "snapstart" in name] == []
    assert "sandboxsnapshots.runtime.agentcube.volcano.sh" in crds_of(fresh)
    for command in rest:
        assert command[0] == "kubectl"
        fresh.kubectl(*command[1:], timeout_s=150.0)
    assert "runtime.agentcube.volcano.sh" not in crds_of(fresh)


def crds_of(cluster: Cluster) -> str:
    return cluster.kubectl("get", "crd", "-o", "name")
