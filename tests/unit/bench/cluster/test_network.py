"""Networks of the nodes are ones that this host does not use yet."""

from __future__ import annotations

import ipaddress

import pytest

from agentd.errors import ConfigError
from bench.cluster.network import NetworkPlan, plan_network

NAMES = ("node-a", "node-b")


def networks(plan: NetworkPlan) -> list[ipaddress.IPv4Network]:
    return [ipaddress.IPv4Network(one.pods) for one in plan.nodes]


def test_each_node_has_names_and_networks_of_its_own() -> None:
    plan = plan_network("1a2b", NAMES, [])
    assert [one.name for one in plan.nodes] == list(NAMES)
    for member in ("namespace", "link", "address", "pods"):
        assert len({getattr(one, member) for one in plan.nodes}) == 2, member


def test_names_of_links_fit_the_kernel() -> None:
    plan = plan_network("12345678", [f"node-{number}" for number in range(20)], [])
    assert max(len(one.link) for one in plan.nodes) <= 15
    assert len(plan.bridge) <= 15


def test_nodes_are_on_the_bridge_their_pods_are_not() -> None:
    plan = plan_network("1a2b", NAMES, [])
    bridge = ipaddress.ip_network(f"{plan.gateway}/24", strict=False)
    for node, pods in zip(plan.nodes, networks(plan), strict=True):
        assert ipaddress.ip_address(node.address) in bridge
        assert not pods.overlaps(bridge)


@pytest.mark.parametrize("taken", ["10.211.0.0/24", "10.211.1.7/32", "10.208.0.0/14"])
def test_a_network_in_use_is_not_taken_again(taken: str) -> None:
    plan = plan_network("1a2b", NAMES, [taken, "192.0.2.0/24"])
    assert not any(one.overlaps(ipaddress.IPv4Network(taken)) for one in networks(plan))


def test_a_host_that_uses_all_of_them_is_told() -> None:
    with pytest.raises(ConfigError, match=r"free network among 10\.211"):
        plan_network("1a2b", NAMES, ["10.0.0.0/8"])


def test_a_command_runs_inside_without_a_process_between() -> None:
    node = plan_network("1a2b", NAMES, []).nodes[0]
    argv = node.inside(["agentd", "serve"])
    assert argv[0] == "nsenter"
    assert f"--net=/run/netns/{node.namespace}" in argv
    assert argv[-2:] == ["agentd", "serve"]
