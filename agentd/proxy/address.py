"""Decide where the proxy may listen: on its Pod's own address, or not at all."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Final

from agentd.errors import ConfigError, ErrorCode

POD_IP: Final = "POD_IP"
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def choose_address(environ: Mapping[str, str], node_addresses: Collection[str]) -> str:
    """The address to listen on.

    A NetworkPolicy, which keeps everybody but the control plane away, holds for Pod addresses only;
    so an address of the node, or of everything, is refused.

    Args: node_addresses: of the Node, of any family; what is no address is left alone. Empty if
    they cannot be told.
    Raises: ConfigError CONFIG_INVALID.
    """
    text = environ.get(POD_IP, "")
    if not text:
        raise _refused(text, "it is not set", "set it by the downward API (status.podIP)")
    address = _parsed(text)
    if address is None:
        raise _refused(text, "it is no IP address", "set it by the downward API (status.podIP)")
    if why := _unfit(address):
        raise _refused(text, why, "set it by the downward API (status.podIP)")
    if address in {_parsed(one) for one in node_addresses}:
        raise _refused(text, "it is the node's own address", "run agentd without hostNetwork")
    return str(address)


def _parsed(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _unfit(address: _Address) -> str:
    if address.is_unspecified:
        return "it stands for every address"
    if address.is_loopback:
        return "nobody but this machine reaches it"
    if address.is_link_local or address.is_multicast:
        return "it is no Pod's"
    return ""


def _refused(text: str, why: str, hint: str) -> ConfigError:
    return ConfigError(
        ErrorCode.CONFIG_INVALID,
        f"choosing where the admin proxy listens: ${POD_IP} is {text[:80]!r}: {why}",
        hint=hint,
    )
