"""Act out what a Kuasar sandboxer does in silence: sandboxer and kubelet are stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agentd.image import Image
from agentd.kuasar.client import Form
from bench.cluster import install, sessions, snapshot
from bench.cluster.world import World
from bench.demo import IMAGES
from bench.demo_cluster import SETTINGS, find_programs
from bench.validate.cluster_sessions import events_of
from bench.validate.cluster_stage import leaks_of
from bench.validate.evidence import Record, Start
from bench.validate.plan_cluster import NOT_RESTORED, NOT_THERE
from bench.validate.run import leaving_nothing
from controlplane.api import names
from controlplane.kube.resource import NODES, PODS
from tests.integration.cluster.kuasar_node import SandboxerNode
from tests.kube.api import Object
from tests.kube.assets import Assets
from tests.kube.objects import exists

PROVIDER = "snapstart.kuasar.io"
RUNTIME_CLASS = "kuasar-vmm"
TOLD_S = 60.0
_SAID = {names.FROM_SNAPSHOT: "fork", names.FROM_IMAGE: "cold"}


@dataclass(frozen=True)
class KuasarStage:
    """One node whose sandboxer has the snapshot."""

    world: World
    node: SandboxerNode

    def perform(self, name: str, record: Record) -> None:
        """There is one scenario."""
        sandboxer = self.node.kubelet.node.sandboxer
        record.add(take(self.world, "restored"))
        sandboxer.restore_faults.append("the hypervisor refused the saved state")
        record.add(take(self.world, NOT_RESTORED))
        dropped = dict(sandboxer.templates)
        sandboxer.templates.clear()
        try:
            record.add(take(self.world, NOT_THERE))
        finally:
            sandboxer.templates.update(dropped)


@contextmanager
def open_kuasar(image: Image, say: Callable[[str], None]) -> Iterator[KuasarStage]:
    """A cluster without nodes of its own, then that node."""
    find_programs(Assets())
    world = World(image, IMAGES, nodes=(), settings=SETTINGS, say=say)
    with leaving_nothing(lambda: leaks_of(world)), world:
        world.cluster.apply(_objects())
        say("a node with a sandboxer, a stand-in")
        with SandboxerNode(world, Form.GRPC) as node:
            world.cluster.wait_for("the node able to build", lambda: _is_able(world, node.name))
            world.cluster.apply([_snapshot()])
            snapshot.wait_status(world, "the snapshot Ready", snapshot.is_whole)
            yield KuasarStage(world, node)


def take(world: World, group: str) -> Start:
    """One session, by what its Pod says of it; no code runs in it, so no time is a sample."""
    begun = sessions.begin(world, snapshot.NAME)
    path = PODS.path(sessions.NAMESPACE, begun.name)

    def says() -> bool:
        return exists(world.cluster, path) and bool(_annotation(world, path, names.STARTED_FROM))

    world.cluster.wait_for(f"how {begun.name} started", says, deadline_s=TOLD_S)
    pod = world.cluster.api.get(path)
    found = pod["metadata"]["annotations"]
    start = Start(
        name=begun.name,
        group=group,
        node=pod["spec"]["nodeName"],
        said=_SAID.get(found[names.STARTED_FROM], ""),
        intent=found.get(names.SNAPSHOT_KEY, ""),
        reason=found.get(names.STARTED_FROM_REASON, ""),
        events=events_of(world, begun.name, is_awaited=True),
        is_right=pod["status"]["phase"] == "Running",
    )
    sessions.delete(world, begun.name)
    world.cluster.wait_for("the session gone", lambda: not exists(world.cluster, path))
    return start


def _annotation(world: World, path: str, name: str) -> str:
    found = world.cluster.api.get(path)["metadata"].get("annotations") or {}
    return str(found.get(name, ""))


def _objects() -> list[Object]:
    runtime_class = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": RUNTIME_CLASS},
        "handler": "vmm",
    }
    runtime = install.example("code-interpreter")
    runtime["spec"]["template"]["runtimeClassName"] = RUNTIME_CLASS
    return [runtime_class, runtime, install.example("snapshotclass-kuasar")]


def _snapshot() -> Object:
    found = install.example("sandbox-snapshot")
    found["spec"]["snapshotClassName"] = "kuasar"
    return found


def _is_able(world: World, node: str) -> bool:
    labels = world.cluster.api.get(NODES.path(name=node))["metadata"]["labels"]
    return bool(labels.get(names.provider_label(PROVIDER)) == "true")
