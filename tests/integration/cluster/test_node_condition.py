"""What an agent tells of its sandboxer, on a real API server."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agentd.kuasar.client import Form
from agentd.node.sandboxer_condition import CONDITION, LABEL, SandboxerCondition
from agentd.settings import Kuasar
from controlplane.kube.client import open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.resource import NODES
from tests.fakes.kuasar.node import KuasarNode
from tests.kube.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


class NoTrace:
    """A Tracer."""

    def step(self, event: str, /, **details: str | int | float) -> None:
        pass


def conditions(node: dict[str, Any]) -> dict[str, str]:
    """Status by type."""
    return {one["type"]: one["status"] for one in node["status"]["conditions"]}


async def test_an_agents_condition_stands_beside_a_kubelets(
    api_cluster: Cluster, tmp_path: Path
) -> None:
    name = f"node-{uuid.uuid4().hex[:8]}"
    kubelets = [{"type": kind, "status": "True"} for kind in ("Ready", "DiskPressure")]
    sandboxer = KuasarNode(tmp_path, Form.GRPC)
    settings = Kuasar(
        admin_socket=sandboxer.admin_path,
        grpc_socket=sandboxer.grpc_path,
        config_file=tmp_path / "none.toml",
    )
    connection = KubeSettings(kubeconfig=str(api_cluster.kubeconfig), user_agent="kubelet/1")
    async with sandboxer, await open_kube(connection, environ={}) as kube:
        await kube.create(NODES, {"metadata": {"name": name}})
        await kube.merge(NODES, name, {"status": {"conditions": kubelets}}, subresource="status")
        told = SandboxerCondition(kube, settings, name, NoTrace(), lambda: datetime.now(UTC))
        await told.refresh()
        found = await kube.get(NODES, name)
        assert conditions(found) == {"Ready": "True", "DiskPressure": "True", CONDITION: "Unknown"}
        assert found["metadata"]["labels"][LABEL] == Form.GRPC.value
        await sandboxer.stop()
        await told.refresh()
        assert conditions(await kube.get(NODES, name))[CONDITION] == "False"
        await told.withdraw()
        found = await kube.get(NODES, name)
        assert conditions(found) == {"Ready": "True", "DiskPressure": "True"}
        assert LABEL not in found["metadata"].get("labels", {})
