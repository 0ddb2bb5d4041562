"""Give each node of the demonstration a network of its own.

A node is a network namespace, joined to the others and to this host by a bridge. Its Pods have
addresses in a network of the node, which this host reaches by a route; nothing is forwarded.
"""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentd.errors import ConfigError, ErrorCode
from tests.kube.managed import Managed

NETNS = Path("/run/netns")
# Private addresses (RFC 1918); of each candidate the third number tells bridge and nodes apart.
_CANDIDATES = tuple(f"10.{number}" for number in range(211, 251))
_NODE_HOST = 10


@dataclass(frozen=True)
class NodePlace:
    """Where a node is. address: on the bridge. pods: the network of its Pods."""

    name: str
    namespace: str
    link: str
    address: str
    pods: str

    def inside(self, argv: Sequence[str]) -> list[str]:
        """A command line that runs in the node's network, without a process between."""
        return ["nsenter", f"--net={NETNS / self.namespace}", "--", *argv]


@dataclass(frozen=True)
class NetworkPlan:
    """Names and addresses. gateway: this host's address on the bridge."""

    bridge: str
    gateway: str
    nodes: tuple[NodePlace, ...]


def plan_network(tag: str, names: Sequence[str], taken: Iterable[str]) -> NetworkPlan:
    """Choose what is free.

    Args: tag: at most 8 characters, unique on this host. taken: networks in use here.
    Raises: ConfigError when nothing is free.
    """
    used = [ipaddress.ip_network(one) for one in taken]
    for prefix in _CANDIDATES:
        if not any(ipaddress.ip_network(f"{prefix}.0.0/16").overlaps(one) for one in used):
            places = tuple(_place(tag, prefix, name, at) for at, name in enumerate(names, start=1))
            return NetworkPlan(f"sb{tag}", f"{prefix}.0.1", places)
    raise ConfigError(
        ErrorCode.CONFIG_INVALID,
        f"looking for a free network among {_CANDIDATES[0]}.0.0/16 to {_CANDIDATES[-1]}.0.0/16",
        hint="end other demonstrations",
    )


def _place(tag: str, prefix: str, name: str, number: int) -> NodePlace:
    return NodePlace(
        name=name,
        namespace=f"snapstart-{tag}-{name}",
        link=f"sv{tag}{number}",
        address=f"{prefix}.0.{_NODE_HOST + number}",
        pods=f"{prefix}.{number}.0/24",
    )


def networks_in_use() -> list[str]:
    """Every IPv4 network that this host has a route to, but for the default one."""
    rows = json.loads(_ip("-json", "-4", "route", "show", "table", "all"))
    found = (str(row.get("dst", "")) for row in rows)
    return [one for one in found if one and one not in ("default", "0.0.0.0/0")]


class Network(Managed):
    """The namespaces of a plan; leaving the block removes them with all that is in them."""

    def __init__(self, plan: NetworkPlan) -> None:
        self.plan = plan

    def close(self) -> None:
        """Remove what there is of it; safe to repeat."""
        for node in self.plan.nodes:
            _try_ip("link", "delete", node.link)
            _try_ip("netns", "delete", node.namespace)
        _try_ip("link", "delete", self.plan.bridge)

    def start(self) -> None:
        """Make them. Raises: ConfigError."""
        plan = self.plan
        _ip("link", "add", plan.bridge, "type", "bridge")
        _ip("address", "add", f"{plan.gateway}/24", "dev", plan.bridge)
        _ip("link", "set", plan.bridge, "up")
        for node in plan.nodes:
            self._make_node(node)

    def _make_node(self, node: NodePlace) -> None:
        _ip("netns", "add", node.namespace)
        there = ("-netns", node.namespace)
        peer = ("peer", "name", "eth0", "netns", node.namespace)
        _ip("link", "add", node.link, "type", "veth", *peer)
        _ip("link", "set", node.link, "master", self.plan.bridge, "up")
        _ip(*there, "link", "set", "lo", "up")
        _ip(*there, "address", "add", f"{node.address}/24", "dev", "eth0")
        _ip(*there, "link", "set", "eth0", "up")
        _ip(*there, "route", "add", "default", "via", self.plan.gateway)
        _ip("route", "add", node.pods, "via", node.address)


def require_root() -> None:
    """Raises: ConfigError when this user can make no network namespaces."""
    if os.geteuid() != 0:
        raise ConfigError(
            ErrorCode.PERMISSION_DENIED,
            "making a network namespace for each node: this takes root",
            hint="run it as root, for instance with sudo",
        )


def _ip(*words: str) -> str:
    """One ip(8) command. Raises: ConfigError."""
    argv = ["ip", *words]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as exc:
        said = exc.stderr.strip() if isinstance(exc, subprocess.CalledProcessError) else str(exc)
        raise ConfigError(
            ErrorCode.PERMISSION_DENIED,
            f"making the nodes' networks: {' '.join(argv)}: {said}",
            hint="install iproute2, use a kernel with veth pairs, bridges, network namespaces",
        ) from exc
    return done.stdout


def _try_ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, check=False, timeout=30)
