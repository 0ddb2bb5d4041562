"""The node agent of AgentCube SnapStart."""

from __future__ import annotations

from agentd._version import __version__ as __version__

# 0.1.0 of 0.1.0.dev87+g81bb6d796: what guest images carry, so that a commit alone makes none new.
RELEASE = __version__.partition(".dev")[0].partition("+")[0]
