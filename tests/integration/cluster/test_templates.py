"""The template controller, with the rights that its role grants, against real API servers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controlplane.api import names
from controlplane.api.crds import DIRECTORY
from controlplane.kube.client import open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.sandboxes import discover_sandboxes
from controlplane.runtimes.code_interpreter import CodeInterpreterController
from controlplane.runtimes.condition import TYPE
from controlplane.runtimes.plan import Emit
from controlplane.runtimes.public_key import SECRET, PublicKey
from controlplane.runtimes.types import CodeInterpreter
from tests.kube.api import ApiError, Object
from tests.kube.cluster import Cluster
from tests.kube.manifests import load
from tests.kube.objects import MERGE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

NAMESPACE = "agentcube-system"
KUBERNETES = DIRECTORY.parent / "kubernetes"
TEMPLATES = "/apis/extensions.agents.x-k8s.io/{}/namespaces/default/sandboxtemplates/{}"
OWNERS = f"/apis/{names.API_VERSION}/namespaces/default/codeinterpreters"
WORKLOAD_MANAGER = "workload-manager"


class World:
    """One CodeInterpreter in a real cluster. version: of agent-sandbox's API."""

    def __init__(self, cluster: Cluster, version: str, **spec: Any) -> None:
        self.cluster = cluster
        self.name = f"ci-{uuid.uuid4().hex[:8]}"
        self.path = TEMPLATES.format(version, self.name)
        self.events: list[Emit] = []
        template = {"image": "py:1", "resources": {"limits": {"cpu": "1000m"}}}
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "CodeInterpreter",
            "metadata": {"name": self.name},
            "spec": {"template": template, "authMode": "none", **spec},
        }
        cluster.api.call("POST", OWNERS, body)

    @property
    def template(self) -> Object | None:
        try:
            return self.cluster.api.get(self.path)
        except ApiError as exc:
            if exc.status != 404:
                raise
            return None

    @property
    def pod(self) -> Object:
        """The Pod spec of the template, empty if there is none."""
        found = self.template or {"spec": {"podTemplate": {"spec": {}}}}
        spec: Object = found["spec"]["podTemplate"]["spec"]
        return spec

    @property
    def owner(self) -> Object:
        return self.cluster.api.get(f"{OWNERS}/{self.name}")

    @property
    def reason(self) -> str:
        conditions = self.owner.get("status", {}).get("conditions", [])
        return next((one["reason"] for one in conditions if one["type"] == TYPE), "")

    def as_agentcube(self, method: str, path: str, body: Object, **options: str) -> Object:
        """A write of another controller."""
        where = f"{path}?fieldManager={WORKLOAD_MANAGER}"
        return self.cluster.api.call(method, where, body, **options)

    async def until(self, what: str, is_so: Callable[[], object]) -> None:
        """Poll, without holding up the controller."""
        await asyncio.to_thread(self.cluster.wait_for, what, lambda: bool(is_so()))

    async def announce(self, _: CodeInterpreter, event: Emit) -> None:
        self.events.append(event)


@asynccontextmanager
async def keeping(world: World, kubeconfig: Path) -> AsyncIterator[None]:
    """The controller, at work."""
    async with await open_kube(KubeSettings(kubeconfig=str(kubeconfig))) as api:
        found = await discover_sandboxes(api)
        assert found.templates is not None
        key = PublicKey(api, NAMESPACE)
        controller = CodeInterpreterController(
            api, found.templates, key, world.announce, lambda: datetime.now(UTC)
        )
        task = asyncio.create_task(controller.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()


@pytest.fixture
def kubeconfig(sandbox_cluster: Cluster) -> Path:
    for name in ("namespace", "rbac-controlplane"):
        sandbox_cluster.apply(load(KUBERNETES / f"{name}.yaml"))
    return sandbox_cluster.kubeconfig_for_account(NAMESPACE, "snapstart-controlplane")


@pytest.fixture
def version(request: pytest.FixtureRequest) -> str:
    """That of `sandbox_cluster`."""
    found: str = request.node.callspec.params["sandbox_cluster"]
    return found


@pytest.mark.usefixtures("kubeconfig")
async def test_a_template_is_made_kept_and_collected_with_its_owner(
    sandbox_cluster: Cluster, kubeconfig: Path, version: str
) -> None:
    world = World(sandbox_cluster, version)
    async with keeping(world, kubeconfig):
        await world.until("a template", lambda: world.reason == "TemplateApplied")
        good = world.pod
        assert good["containers"][0]["resources"] == {"limits": {"cpu": "1000m"}}
        evil = [{"name": "code-interpreter", "image": "evil"}, {"name": "more", "image": "x"}]
        spec = {"podTemplate": {"spec": {"containers": evil, "nodeName": "x"}}}
        # Of whatever version: agent-sandbox labels the template at about this time.
        world.as_agentcube("PATCH", world.path, {"spec": spec}, content_type=MERGE)
        await world.until("the repair", lambda: world.pod == good)
        await _check_rest(world)
        sandbox_cluster.api.delete(f"{OWNERS}/{world.name}")
        await world.until("collected with its owner", lambda: world.template is None)
    assert [event.reason for event in world.events] == ["TemplateApplied"]


async def _check_rest(world: World) -> None:
    """Nothing is written when nothing changes; what was under way may end first."""
    known = world.template, world.owner
    for _ in range(5):
        await asyncio.sleep(1)
        before, known = known, (world.template, world.owner)
        if known == before:
            return
    raise AssertionError(f"nothing changes, yet it writes: {before}, {known}")


async def test_a_conditions_list_is_shared_with_agentcube(
    sandbox_cluster: Cluster, kubeconfig: Path, version: str
) -> None:
    world = World(sandbox_cluster, version)
    async with keeping(world, kubeconfig):
        await world.until("ours", lambda: world.reason == "TemplateApplied")
        owner = world.owner
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Reconciled",
            "message": "",
            "lastTransitionTime": "2030-01-01T00:00:00Z",
        }
        owner["status"] = {"ready": True, "conditions": [*owner["status"]["conditions"], ready]}
        world.as_agentcube("PUT", f"{OWNERS}/{world.name}/status", owner)
        patch = {"spec": {"template": {"image": "py:2"}}}
        world.cluster.api.call("PATCH", f"{OWNERS}/{world.name}", patch, content_type=MERGE)
        await world.until("py:2", lambda: world.pod["containers"][0]["image"] == "py:2")
        await world.until("the generation", lambda: _observed(world.owner) == 2)
        assert ready in world.owner["status"]["conditions"]
        assert world.owner["status"]["ready"] is True


def _observed(owner: Object) -> int:
    [ours] = [one for one in owner["status"]["conditions"] if one["type"] == TYPE]
    generation: int = ours["observedGeneration"]
    return generation


async def test_who_deletes_the_template_thrice_gets_their_way(
    sandbox_cluster: Cluster, kubeconfig: Path, version: str
) -> None:
    world = World(sandbox_cluster, version)
    async with keeping(world, kubeconfig):
        for _ in range(3):
            await world.until("a template", lambda: world.template)
            sandbox_cluster.api.delete(world.path)
        await world.until("a truce", lambda: world.reason == "TemplateContested")
        await asyncio.sleep(1)
        assert world.template is None
    async with keeping(world, kubeconfig):
        await asyncio.sleep(1)
        assert world.template is None, "a restart forgets the truce"
    assert world.events[-1].is_warning


async def test_a_template_of_agentcubes_own_controller_is_left_alone(
    sandbox_cluster: Cluster, kubeconfig: Path, version: str
) -> None:
    world = World(sandbox_cluster, version, warmPoolSize=2)
    theirs = {
        "apiVersion": f"extensions.agents.x-k8s.io/{version}",
        "kind": "SandboxTemplate",
        "metadata": {"name": world.name},
        "spec": {"podTemplate": {"spec": {"containers": [{"name": "codeinterpreter"}]}}},
    }
    world.as_agentcube("POST", world.path.rpartition("/")[0], theirs)
    spec = world.template["spec"]
    async with keeping(world, kubeconfig):
        await world.until("the report", lambda: world.reason == "TemplateNotOurs")
        # Its own controller puts labels on it meanwhile.
        assert world.template["spec"] == spec
        assert names.TEMPLATE_KEEPER not in (world.template["metadata"].get("annotations") or {})
        sandbox_cluster.api.delete(world.path)
        await world.until("ours", lambda: world.reason == "TemplateApplied")


async def test_the_key_is_read_by_name_and_waited_for(
    sandbox_cluster: Cluster, kubeconfig: Path, version: str
) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    sandbox_cluster.api.delete(f"{path}/{SECRET}")
    world = World(sandbox_cluster, version, authMode="picod")
    async with keeping(world, kubeconfig):
        await world.until("the report", lambda: world.reason == "PublicKeyMissing")
        assert world.template is None
        key = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET},
            "stringData": {"public.pem": "-----BEGIN PUBLIC KEY-----"},
        }
        sandbox_cluster.api.call("POST", path, key)
        await world.until("a template", lambda: world.reason == "TemplateApplied")
    assert world.pod["containers"][0]["env"][0]["name"] == "PICOD_AUTH_PUBLIC_KEY"
    sandbox_cluster.api.delete(f"{path}/{SECRET}")
