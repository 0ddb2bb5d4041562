"""Give each Pod an address of this host."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Collection
from typing import Final

from agentd.errors import ConfigError, ErrorCode, TransientError

_LINK: Final = "lo"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_network(text: str) -> Network:
    """A network such as 127.88.0.0/16. Raises: ConfigError."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as exc:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"reading node.pod_cidr {text!r}: {exc}",
            hint="give a network such as 127.88.0.0/16",
        ) from exc
    return network


def choose_address(network: Network, used: Collection[str]) -> str:
    """The lowest address that is free; neither the network's own nor the last one.

    Raises: TransientError NODE_FULL.
    """
    for host in network.hosts():
        if str(host) not in used:
            return str(host)
    raise TransientError(
        ErrorCode.NODE_FULL,
        f"giving a Pod an address: all of {network} are taken",
        hint="end Pods, or give node.pod_cidr a larger network",
    )


class Addresses:
    """The addresses of this node's Pods, put on the loopback interface where that is needed.

    All of 127.0.0.0/8 is the host's own already. Any other network needs the permission to change
    addresses (CAP_NET_ADMIN); other processes on this host then reach it without a route.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._used: set[str] = set()

    def take(self, wanted: str = "") -> str:
        """An address for a Pod, until `release`. wanted: what it has already."""
        address = wanted if self._has(wanted) else choose_address(self._network, self._used)
        self._used.add(address)
        return address

    def reserve(self, address: str) -> None:
        """Somebody has it already. Idempotent."""
        self._used.add(address)

    def release(self, address: str) -> None:
        """Nobody has it any more. Idempotent."""
        self._used.discard(address)

    async def add(self, address: str) -> None:
        """Make an address one of this host. Idempotent. Raises: ConfigError."""
        if not self._network.is_loopback:
            await _ip("address", "replace", self._with_length(address), "dev", _LINK)

    async def remove(self, address: str) -> None:
        """Take it away again; failures leave it, and `clean` takes it at the next start."""
        if not self._network.is_loopback:
            try:
                await _ip("address", "delete", self._with_length(address), "dev", _LINK)
            except ConfigError:
                return

    async def clean(self) -> None:
        """Take away what a predecessor left and nobody uses."""
        if self._network.is_loopback:
            return
        found = json.loads(await _ip("-json", "address", "show", "dev", _LINK) or "[]")
        for link in found:
            for entry in link.get("addr_info", ()):
                local = str(entry.get("local") or "")
                if local and local not in self._used and self._has(local):
                    await self.remove(local)

    def _has(self, address: str) -> bool:
        return bool(address) and ipaddress.ip_address(address) in self._network

    def _with_length(self, address: str) -> str:
        return f"{address}/{self._network.max_prefixlen}"


async def _ip(*words: str) -> str:
    """One ip(8) command. Raises: ConfigError."""
    try:
        process = await asyncio.create_subprocess_exec(
            "ip", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as exc:
        raise _failed(words, str(exc)) from exc
    try:
        out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise _failed(words, err.decode(errors="replace").strip())
    return out.decode(errors="replace")


def _failed(words: tuple[str, ...], came_back: str) -> ConfigError:
    return ConfigError(
        ErrorCode.PERMISSION_DENIED,
        f"giving Pods addresses: ip {' '.join(words)}: {came_back}",
        hint="install iproute2, give agentd CAP_NET_ADMIN, or use a node.pod_cidr in 127.0.0.0/8",
    )
