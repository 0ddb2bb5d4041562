"""Write the text of a status."""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.api.manifest import Artifact
from controlplane.snapshots.policy import Policy


def join_messages(artifacts: Iterable[Artifact], policy: Policy) -> str:
    """`node: text; node: text`, by name of node; so many nodes at most."""
    told = sorted((one.node_name, one.message) for one in artifacts if one.message)
    parts = [f"{name}: {text}" for name, text in told[: policy.message_nodes]]
    if len(told) > policy.message_nodes:
        parts.append(f"and {len(told) - policy.message_nodes} more nodes")
    return cap_bytes("; ".join(parts), policy.message_bytes)


def cap_bytes(text: str, most: int) -> str:
    """Cut to so many bytes of UTF-8, never inside a character."""
    encoded = text.encode()
    if len(encoded) <= most:
        return text
    return encoded[: most - 3].decode(errors="ignore") + "..."
