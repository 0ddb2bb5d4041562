"""Ask a fork who it is: the question of `snapctl demo`."""

from __future__ import annotations

from agentd.cli.demo_identity import QUESTION, read_identity

__all__ = ["QUESTION", "read_identity"]
