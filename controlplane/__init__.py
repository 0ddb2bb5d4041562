"""The control plane of AgentCube SnapStart."""
