"""From a SandboxSnapshot to sessions that a sandboxer restored, on a real Kubernetes.

The sandboxer and the kubelet are stand-ins; agentd, the control plane, agent-sandbox are not.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from agentd.image import Image
from agentd.kuasar.client import Form
from bench.cluster import install, sessions, snapshot
from bench.cluster.world import World
from bench.demo import IMAGES
from controlplane.api import names
from controlplane.kube.resource import LEASES, NODES, PODS, SNAPSHOTS, sandboxes
from tests.integration.cluster.conftest import SETTINGS
from tests.integration.cluster.kuasar_node import SandboxerNode
from tests.integration.cluster.rights_used import unused
from tests.kube.api import Object
from tests.kube.audit import refused
from tests.kube.objects import exists
from tests.kube.rights import read_roles

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PROVIDER = "snapstart.kuasar.io"
RUNTIME_CLASS = "kuasar-vmm"
TEMPLATE_KEY = "kuasar.io/template-key"
ACCOUNTS = f"system:serviceaccount:{install.NAMESPACE}"
AGENT_ACCOUNT = f"{ACCOUNTS}:snapstart-agentd"
ROLE = ("ClusterRole", "snapstart-controlplane")
CONTROL_ACCOUNT = f"{ACCOUNTS}:{install.ACCOUNT}"


@pytest.fixture(scope="module")
def world(may_make_networks: None, guest_image: Image) -> Iterator[World]:
    """A cluster without nodes of its own."""
    with World(guest_image, IMAGES, nodes=(), settings=SETTINGS) as found:
        found.cluster.apply([runtime_class(), runtime(), install.example("snapshotclass-kuasar")])
        yield found
    assert found.leaks is not None
    assert not found.leaks.count, found.leaks


def runtime_class() -> Object:
    return {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": RUNTIME_CLASS},
        "handler": "vmm",
    }


def runtime() -> Object:
    found = install.example("code-interpreter")
    found["spec"]["template"]["runtimeClassName"] = RUNTIME_CLASS
    return found


@pytest.fixture(scope="module", params=list(Form), ids=lambda form: f"{form.name} form")
def node(world: World, request: pytest.FixtureRequest) -> Iterator[SandboxerNode]:
    """The only node, with a snapshot on it that is Ready; the last test deletes that."""
    with SandboxerNode(world, request.param) as found:
        wait_able(world, found)
        world.cluster.apply([declared()])
        snapshot.wait_status(world, "the snapshot Ready", snapshot.is_whole, deadline_s=120)
        yield found
        if exists(world.cluster, SNAPSHOTS.path(sessions.NAMESPACE, snapshot.NAME)):
            snapshot.delete(world)


def declared() -> Object:
    found = install.example("sandbox-snapshot")
    found["spec"]["snapshotClassName"] = "kuasar"
    return found


def wait_able(world: World, node: SandboxerNode) -> None:
    """The agent has looked; what failed once it looks at again after a minute."""

    def is_able() -> bool:
        labels = world.cluster.api.get(NODES.path(name=node.name))["metadata"]["labels"]
        return labels.get(names.provider_label(PROVIDER)) == "true"

    world.cluster.wait_for("the node able to build", is_able, deadline_s=150)


def start_session(world: World) -> tuple[str, Object]:
    """Returns: the Sandbox's name, its Pod once it says how it started."""
    begun = sessions.begin(world, snapshot.NAME)
    path = PODS.path(sessions.NAMESPACE, begun.name)

    def says() -> bool:
        if not exists(world.cluster, path):
            return False
        annotations = world.cluster.api.get(path)["metadata"].get("annotations") or {}
        return names.STARTED_FROM in annotations

    world.cluster.wait_for(f"how session {begun.name} started", says, deadline_s=60)
    return begun.name, world.cluster.api.get(path)


def events_of(world: World, name: str) -> set[str]:
    path = (
        f"/api/v1/namespaces/{sessions.NAMESPACE}/events?fieldSelector=involvedObject.name={name}"
    )
    return {one["reason"] for one in world.cluster.api.get(path)["items"]}


def end_session(world: World, name: str) -> None:
    sessions.delete(world, name)
    paths = (PODS.path(sessions.NAMESPACE, name),
             sandboxes(world.sandbox_version).path(sessions.NAMESPACE, name))  # fmt: skip
    world.cluster.wait_for(
        "the session gone", lambda: not any(exists(world.cluster, path) for path in paths)
    )


def test_the_node_says_which_form_its_sandboxer_speaks(world: World, node: SandboxerNode) -> None:
    def says(standing: str) -> bool:
        found = world.cluster.api.get(NODES.path(name=node.name))
        label = found["metadata"]["labels"].get("snapstart.agentcube.volcano.sh/kuasar")
        kinds = {one["type"] for one in found["status"]["conditions"]}
        return label == standing and {"SnapStartSandboxer", "Ready"} <= kinds

    form = node.kubelet.node.form.value
    world.cluster.wait_for("the node's label and condition", lambda: says(form))


def test_a_session_restores_and_says_so(world: World, node: SandboxerNode) -> None:
    (template,) = node.kubelet.node.sandboxer.templates.values()
    name, pod = start_session(world)
    annotations = pod["metadata"]["annotations"]
    assert annotations[names.SNAPSHOT_KEY] == annotations[TEMPLATE_KEY] == template.key
    assert "kuasar.io/snapshot-type" not in annotations
    assert annotations[names.STARTED_FROM] == names.FROM_SNAPSHOT
    told = "SandboxRestoredFromSnapshot"
    world.cluster.wait_for("its event", lambda: told in events_of(world, name))
    end_session(world, name)


def test_a_session_whose_snapshot_was_dropped_starts_cold_and_says_so(
    world: World, node: SandboxerNode
) -> None:
    templates = node.kubelet.node.sandboxer.templates
    dropped = dict(templates)
    templates.clear()
    try:
        name, pod = start_session(world)
        assert pod["status"]["phase"] == "Running"
        assert pod["metadata"]["annotations"][names.STARTED_FROM] == names.FROM_IMAGE
        told = "SandboxRestoreFallback"
        world.cluster.wait_for("its event", lambda: told in events_of(world, name))
        end_session(world, name)
    finally:
        templates.update(dropped)


def test_the_agent_goes_on_saying_that_it_lives(world: World, node: SandboxerNode) -> None:
    path = LEASES.path(install.NAMESPACE, names.agent_lease(node.name))
    first = world.cluster.api.get(path)["spec"]["renewTime"]
    world.cluster.wait_for(
        "the Lease renewed", lambda: world.cluster.api.get(path)["spec"]["renewTime"] != first
    )


def test_of_a_deleted_snapshot_the_sandboxer_keeps_nothing(
    world: World, node: SandboxerNode
) -> None:
    sandboxer = node.kubelet.node.sandboxer
    assert len(sandboxer.templates) == 1
    snapshot.delete(world)
    assert sandboxer.templates == {}
    assert not [one for one in sandboxer.sandboxes.values() if one.is_paused]


def test_every_request_was_allowed_and_every_right_of_the_agents_used(world: World) -> None:
    requests = world.cluster.requests()
    assert {one.user for one in requests} == {AGENT_ACCOUNT, CONTROL_ACCOUNT}
    assert refused(requests) == []
    assert unused({"snapstart-agentd", "snapstart-agentd-replacing"}, requests) == set()


@contextlib.contextmanager
def taken_away(world: World, resource: str, verb: str) -> Iterator[None]:
    """The control plane without one right."""
    (role,) = [one for one in read_roles() if (one["kind"], one["metadata"]["name"]) == ROLE]
    rules = [
        {**rule, "verbs": [one for one in rule["verbs"] if one != verb]}
        if resource in rule["resources"]
        else rule
        for rule in role["rules"]
    ]
    kept = [rule for rule in rules if rule["verbs"]]
    world.cluster.apply([{**role, "rules": kept}])
    try:
        world.cluster.wait_for("the right gone", lambda: not may(world, verb, resource))
        yield
    finally:
        world.cluster.apply([role])


def may(world: World, verb: str, resource: str) -> bool:
    """Whether the authorizer lets the control plane."""
    plural, _, subresource = resource.partition("/")
    asked = {"verb": verb, "group": names.GROUP, "resource": plural, "subresource": subresource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": CONTROL_ACCOUNT, "resourceAttributes": asked},
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(world.cluster.api.call("POST", path, review)["status"]["allowed"])


def words_about(world: World) -> str:
    """What `kubectl describe` shows of the snapshot."""
    found = world.cluster.api.get(SNAPSHOTS.path(sessions.NAMESPACE, snapshot.NAME))
    path = f"/api/v1/namespaces/{sessions.NAMESPACE}/events"
    events = world.cluster.api.get(f"{path}?fieldSelector=involvedObject.name={snapshot.NAME}")
    return json.dumps([found.get("status"), [one["message"] for one in events["items"]]])


@pytest.mark.parametrize(
    ("resource", "verb"),
    [("sandboxsnapshottasks", "create"), ("sandboxsnapshots/finalizers", "update")],
)
def test_without_one_right_the_run_fails_and_says_which(
    world: World, resource: str, verb: str
) -> None:
    with SandboxerNode(world, Form.GRPC) as node:
        wait_able(world, node)
        with taken_away(world, resource, verb):
            world.cluster.apply([declared()])
            world.cluster.wait_for(
                "403 Forbidden in status or events",
                lambda: "403 Forbidden" in words_about(world),
                deadline_s=60,
            )
            assert '"phase": "Ready"' not in words_about(world)
        snapshot.delete(world)
