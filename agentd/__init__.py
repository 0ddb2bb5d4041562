"""The node agent of AgentCube SnapStart."""

from __future__ import annotations

__version__ = "0.1.0"
