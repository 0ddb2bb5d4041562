"""What happens to nodes, their machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.api import names
from controlplane.errors import ControlPlaneError
from controlplane.kube.resource import (
    LEASES,
    NODES,
)

from .driver import Machine

if TYPE_CHECKING:
    pass

from .scene import FOREIGN, NODE_NAMES, OWN, Scene


class Nodes(Scene):
    """Each action is one change of the world."""

    def do_not_ready(self) -> str | None:
        """A machine loses power; its Node is not ready a while later."""
        name = self._some(sorted(set(self._world.machines) - self._world.down))
        if name is None:
            return None
        self._fail_machine(name)
        self._set_ready(name, "Unknown")
        return str(name)

    def do_power_on(self) -> str | None:
        name = self._some(sorted(self._world.down))
        if name is None:
            return None
        self.power_on(name)
        return str(name)

    def power_on(self, name: str) -> None:
        """A machine comes back with its disk."""
        world = self._world
        world.down.discard(name)
        world.start_agent(name)
        self._set_ready(name, "True")
        for pod in world.truth.pods.all():
            if pod.node_name == name and pod.status.phase == "Running":
                self._fail_pod(pod)
        world.sandboxer.look_again()

    def do_flap(self) -> str | None:
        """The kubelet is late once; nothing else happens."""
        node = self._some(self._world.truth.nodes.all())
        if node is None:
            return None
        ready = node.ready is not None and node.ready.status == "True"
        self._set_ready(node.metadata.name, "False" if ready else "True")
        return str(node.metadata.name)

    def do_remove_node(self) -> str | None:
        """A machine is taken away for good; one of that name may come later, with an empty disk."""
        world = self._world
        node = self._some(world.truth.nodes.all())
        if node is None:
            return None
        self.remove_node(node.metadata.name)
        return str(node.metadata.name)

    def remove_node(self, name: str) -> None:
        """The Node goes, the machine with all that is on it too."""
        world = self._world
        world.stop_agent(name)
        world.down.discard(name)
        machine = world.machines[name]
        machine.artifacts.clear()
        machine.running.clear()
        machine.leases.clear()
        machine.failures.clear()
        machine.is_engine_well = True
        world.cluster.delete(NODES, name)
        world.disk_changed()
        self._delete_lease(name)

    def _delete_lease(self, name: str) -> None:
        try:
            self._world.cluster.delete(
                LEASES, names.agent_lease(name), namespace="agentcube-system"
            )
        except ControlPlaneError:
            return

    def do_add_node(self) -> str | None:
        """A node joins; often one of a name that was there."""
        world = self._world
        name = self._random.choice(NODE_NAMES)
        if world.truth.nodes.get(name) is not None:
            return None
        world.machines.setdefault(name, Machine(name, frozenset((OWN, FOREIGN))))
        self.add_node(name)
        return name

    def do_replace_node(self) -> str | None:
        """Another machine takes a node's name at once."""
        node = self._some(self._world.truth.nodes.all())
        if node is None:
            return None
        name = str(node.metadata.name)
        self.remove_node(name)
        self.add_node(name)
        return name

    def do_cordon(self) -> str | None:
        node = self._some(self._world.truth.nodes.all())
        if node is None:
            return None
        patch = {"spec": {"unschedulable": not node.spec.unschedulable}}
        self._world.cluster.merge(NODES, node.metadata.name, patch)
        return str(node.metadata.name)

    def do_zone(self) -> str | None:
        node = self._some(self._world.truth.nodes.all())
        if node is None:
            return None
        patch = {"metadata": {"labels": {"zone": self._random.choice("xyz")}}}
        self._world.cluster.merge(NODES, node.metadata.name, patch)
        return str(node.metadata.name)

    def do_taint(self) -> str | None:
        """A taint that nobody tolerates, or that is only a wish."""
        node = self._some(self._world.truth.nodes.all())
        if node is None:
            return None
        effect = self._random.choice(("NoSchedule", "PreferNoSchedule"))
        taints = None if node.spec.taints else [{"key": "other", "effect": effect}]
        self._world.cluster.merge(NODES, node.metadata.name, {"spec": {"taints": taints}})
        return f"{node.metadata.name} {effect}"
