"""Whether the cluster sees a node's agent, as /readyz tells."""

from __future__ import annotations

from pathlib import Path

from agentd.node.agent import CLUSTER, _state_of
from controlplane.errors import UnavailableError
from controlplane.kube.lease import Clocks, LeaseHolder
from controlplane.kube.leases import LeaseName
from tests.adapters.node.world import new_cluster, running_world

NAME = LeaseName("agentcube-system", "snapstart-agentd-n", "n")


async def test_an_agent_whose_lease_is_renewed_is_ready(tmp_path: Path) -> None:
    async with running_world(tmp_path, new_cluster()) as world:
        await world.until(lambda: CLUSTER in world.health.states())
        await world.until(lambda: world.health.states()[CLUSTER].is_ready)


async def test_a_lease_that_grew_old_is_told_with_the_reason_until_it_is_renewed() -> None:
    now_s = 1000.0
    lease = LeaseHolder(new_cluster(), NAME, clocks=Clocks(monotonic=lambda: now_s))
    assert not _state_of(lease).is_ready
    await lease.renew()
    assert _state_of(lease).is_ready
    now_s += 41.0
    lease.last_error = UnavailableError("the API server is away")
    assert "is away" in _state_of(lease).detail
    assert not _state_of(lease).is_ready
    await lease.renew()
    assert _state_of(lease).is_ready
