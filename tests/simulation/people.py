"""What all people of a simulated world do, how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from controlplane.errors import ControlPlaneError
from controlplane.kube.resource import (
    TASKS,
)

if TYPE_CHECKING:
    pass

from .people_faults import Faults
from .people_nodes import Nodes
from .people_sessions import Sessions
from .people_sources import Sources


class People(Sources, Nodes, Faults, Sessions):
    """Everybody."""

    # The end of all faults

    def heal(self) -> None:
        """From now on nothing goes wrong, nobody changes anything."""
        world = self._world
        world.network.weather.clear()
        world.slow.clear()
        for machine in world.machines.values():
            machine.failures.clear()
            machine.is_engine_well = True
            machine.leases.clear()
        world.bad_images.clear()
        for name in sorted(world.down):
            self.power_on(name)
        for node in world.truth.nodes.all():
            self._set_ready(node.metadata.name, "True")
            if node.metadata.name not in world.agents:
                world.start_agent(node.metadata.name)
        for namespace, name in sorted(world.invariants.forged_tasks):
            try:
                world.cluster.delete(TASKS, name, namespace=namespace)
            except ControlPlaneError:
                continue
        world.trace("-- healed")


ACTIONS: Final = {
    "session": 14.0,
    "edit_template": 4.0,
    "edit_env": 2.0,
    "reorder_tolerations": 2.0,
    "pin": 1.0,
    "runtime_class": 0.5,
    "make_runtime_class": 0.7,
    "hang_pod": 1.0,
    "touch_record": 0.7,
    "dangle": 0.5,
    "bad_image": 2.0,
    "delete_template": 1.0,
    "add_template": 1.5,
    "edit_class": 1.0,
    "delete_class": 0.5,
    "add_class": 1.0,
    "add_snapshot": 2.0,
    "delete_snapshot": 2.0,
    "force": 4.0,
    "change_policy": 1.0,
    "session_sandbox": 1.5,
    "delete_session": 0.3,
    "forge_task": 2.0,
    "delete_build": 1.5,
    "not_ready": 1.5,
    "power_on": 1.5,
    "flap": 1.5,
    "remove_node": 1.5,
    "add_node": 2.0,
    "replace_node": 1.0,
    "cordon": 1.0,
    "zone": 1.0,
    "taint": 1.0,
    "crash_agent": 2.5,
    "silence_agent": 1.0,
    "wake_agent": 1.0,
    "driver_fails": 2.5,
    "engine": 2.0,
    "lose_artifact": 1.5,
    "lease": 1.0,
    "crash_leader": 3.0,
    "crash_admission": 0.5,
    "outage": 2.0,
    "break_watches": 1.0,
    "compact": 0.7,
    "slow": 1.5,
    "wait": 5.0,
    "live": 10.0,
}
