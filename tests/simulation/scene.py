"""Set the scene of a simulated world, act in it at random."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.errors import ControlPlaneError
from controlplane.kube.resource import (
    NODES,
    PODS,
    SNAPSHOT_CLASSES,
    SNAPSHOTS,
)
from controlplane.sessions.session import SessionStart

from .driver import Machine
from .truth import TEMPLATES

if TYPE_CHECKING:
    from .world import World


OWN: Final = "snapstart.qemu.org"  # only the agent restores it
FOREIGN: Final = "snapstart.kuasar.io"  # its sandboxer restores by itself
CLASSES: Final = {"own": OWN, "foreign": FOREIGN}
MARKS: Final = {"foreign": {names.KUASAR_READY_VERSION: "1"}}  # else its builds are refused
NAMESPACES: Final = ("team-a", "team-b")
TEMPLATE: Final = "python"
RUNTIME_CLASS: Final = "vm"
NODE_NAMES: Final = ("node-a", "node-b", "node.c", "node-c")
SNAPSHOT_NAMES: Final = ("ready", "ready-too")
TOLERATIONS: Final = (
    {"key": "a", "operator": "Exists"},
    {"key": "a", "operator": "Equal", "value": "x"},
    {"key": "a", "operator": "Exists", "tolerationSeconds": 5},
)


class Scene:
    """Sets the scene, then lets somebody do something; what they can do is in its subclasses."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.random
        self._images = 0
        self._templates = 0
        self.sessions: list[SessionStart] = []

    # The scene

    def set_scene(self) -> None:
        """Nodes with agents, classes, templates, snapshots."""
        random = self._random
        for name in random.sample(NODE_NAMES, random.choice((1, 2, 2, 3, 4))):
            both = frozenset((OWN, FOREIGN))
            self._world.machines[name] = Machine(name, both)
            self.add_node(name)
        for name in CLASSES:
            self.add_class(name)
        for namespace in NAMESPACES[: random.choice((1, 1, 2))]:
            self.add_template(namespace)
            self.add_snapshot(namespace, SNAPSHOT_NAMES[0])
        self._world.start_admission()
        self._world.start_leader()

    def add_node(self, name: str) -> None:
        """A node registers, its agent starts."""
        world = self._world
        meta = {"name": name, "labels": {"zone": self._random.choice("xxy")}}
        body = {"metadata": meta, "status": {"conditions": [self._ready("True")]}}
        world.cluster.create(NODES, body)
        world.start_agent(name)

    def add_class(self, name: str) -> None:
        """A class, with marks for build Pods now and then."""
        spec: JsonObject = {
            "providerName": CLASSES[name],
            "supportedSnapshotModes": ["Fork"],
            "buildPodAnnotations": {
                "provider.example/mode": f"m{self._random.randint(1, 2)}",
                **MARKS.get(name, {}),
            },
        }
        if self._random.random() < 0.2:
            spec["nodeSelector"] = {"zone": self._random.choice("xy")}
        self._world.cluster.create(SNAPSHOT_CLASSES, {"metadata": {"name": name}, "spec": spec})

    def add_template(self, namespace: str) -> None:
        """A template of its own content."""
        self._templates += 1
        container: JsonObject = {
            "name": "code",
            "image": self._new_image(),
            "env": [{"name": "WHOSE", "value": f"{namespace}-{self._templates}"}],
        }
        if self._random.random() < 0.2:
            container["env"].append({"name": names.SESSION_GATE_ENV, "value": "false"})
        spec: JsonObject = {"containers": [container], "tolerations": [*TOLERATIONS]}
        pod = {
            "metadata": {"annotations": {"provider.example/stray": "x"}},
            "spec": spec,
        }
        self._world.cluster.create(
            TEMPLATES,
            {
                "metadata": {"name": TEMPLATE, "namespace": namespace},
                "spec": {"podTemplate": pod},
            },
        )

    def add_snapshot(self, namespace: str, name: str) -> None:
        """A snapshot of the namespace's template."""
        random = self._random
        policy: JsonObject = {}
        if random.random() < 0.25:
            policy["rebuildAfter"] = random.choice(("20m", "1h"))
        if random.random() < 0.2:
            policy["rebuildOnSourceChange"] = False
        spec: JsonObject = {
            "snapshotMode": "Fork",
            "sourceRef": {
                "apiGroup": names.EXTENSIONS_GROUP,
                "kind": "SandboxTemplate",
                "name": TEMPLATE,
            },
            "snapshotClassName": "own" if random.random() < 0.7 else "foreign",
            "forkPolicy": policy,
        }
        meta = {"name": name, "namespace": namespace}
        self._world.cluster.create(SNAPSHOTS, {"metadata": meta, "spec": spec})

    # Acting at random

    def act(self, weights: dict[str, float]) -> None:
        """Do one thing."""
        name = self._random.choices(list(weights), list(weights.values()))[0]
        action: Callable[[], str | None] = getattr(self, f"do_{name}")
        try:
            told = action()
        except ControlPlaneError as exc:
            told = f"in vain: {exc}"
        self._world.trace(f"-- {name} {told or ''}".rstrip())

    def do_session(self) -> str | None:
        """Somebody starts a session."""
        raise NotImplementedError

    def _session_soon(self) -> None:
        """What changes is most dangerous to who starts right then."""
        random, steps = self._random, self._random.randint(0, 12)
        if random.random() < 0.5:
            return
        for _ in range(steps):
            self._world.step()
        self.do_session()

    def _trouble_soon(self) -> None:
        """Trouble while a set serves and another one is built."""
        random = self._random
        if random.random() < 0.5:
            return
        for _ in range(random.randint(0, 60)):
            self._world.step()
        trouble = ("remove_node", "replace_node", "not_ready", "edit_template", "crash_leader")
        self.act(dict.fromkeys(trouble, 1.0))

    # Details

    def _some(self, choices: Any) -> Any:
        return self._random.choice(choices) if choices else None

    def _new_image(self) -> str:
        self._images += 1
        return f"registry.example/picod:{self._images}"

    @staticmethod
    def _spec_of(template: Any) -> JsonObject:
        return copy.deepcopy(template.spec.pod_template.spec)

    def _write_template(self, found: Any, spec: JsonObject) -> str:
        meta = found.metadata
        patch = {"spec": {"podTemplate": {"spec": spec}}}
        self._world.cluster.merge(TEMPLATES, meta.name, patch, namespace=meta.namespace)
        self._session_soon()
        return f"{meta.namespace} {spec['containers'][0]['image']}"

    def _ready(self, status: str) -> JsonObject:
        at = f"{self._world.now:%Y-%m-%dT%H:%M:%SZ}"
        return {"type": "Ready", "status": status, "lastTransitionTime": at}

    def _set_ready(self, name: str, status: str) -> None:
        node = self._world.truth.nodes.get(name)
        if node is None or (node.ready is not None and node.ready.status == status):
            return
        conditions = {"status": {"conditions": [self._ready(status)]}}
        self._world.cluster.merge(NODES, name, conditions, subresource="status")

    def _fail_machine(self, name: str) -> None:
        world = self._world
        world.down.add(name)
        world.stop_agent(name)
        world.machines[name].leases.clear()
        world.machines[name].running.clear()

    def _fail_pod(self, pod: Any) -> None:
        meta = pod.metadata
        self._world.cluster.merge(
            PODS,
            meta.name,
            {"status": {"phase": "Failed"}},
            namespace=meta.namespace,
            subresource="status",
        )
