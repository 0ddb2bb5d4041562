"""Run an agentd of one's own: the one that `snapctl demo` runs."""

from __future__ import annotations

from agentd.cli.private_node import Node

__all__ = ["Node"]
