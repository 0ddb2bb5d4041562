"""An agent on a node whose Pods a sandboxer runs: what it begins, what it begins again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agentd.kuasar.client import Form
from agentd.node import agent
from agentd.node.sandboxer_condition import SANDBOXER
from agentd.settings import Kuasar, Settings
from controlplane.api import names
from controlplane.kube.resource import NODES
from tests.adapters.node.world import new_cluster, running_agent
from tests.fakes.daemon import make_settings
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kube import FakeKube
from tests.fakes.vmm import FakeVmm

LABEL = names.provider_label("snapstart.kuasar.io")


def settings_for(root: Path, node: KuasarNode) -> Settings:
    kuasar = Kuasar(
        enabled=True,
        admin_socket=node.admin_path,
        grpc_socket=node.grpc_path,
        listen_socket=root / "listen.sock",
        cri_socket=node.cri_path,
        config_file=root / "kuasar.toml",
    )
    return msgspec.structs.replace(make_settings(root), kuasar=kuasar)


def labels(kube: FakeKube) -> dict[str, str]:
    found: dict[str, str] = kube.cluster.get(NODES, "node-a")["metadata"].get("labels") or {}
    return found


@pytest.mark.parametrize("form", list(Form))
async def test_a_ledger_that_cannot_be_opened_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form
) -> None:
    monkeypatch.setattr(agent, "_PAUSE_S", 0.05)
    kube = new_cluster()
    kube.cluster.create(NODES, {"metadata": {"name": "node-a"}})
    async with KuasarNode(tmp_path, form) as node:
        settings = settings_for(tmp_path, node)
        settings.data_dir.mkdir(mode=0o700)
        (settings.data_dir / "kuasar").touch()
        vmm = FakeVmm("inst", settings.run_dir / "vms")
        async with running_agent(tmp_path, settings, vmm, kube, virtual=False) as world:
            await world.until(lambda: world.trace.has("node.failed"))
            assert LABEL not in labels(kube)
            (settings.data_dir / "kuasar").unlink()
            await world.until(lambda: labels(kube).get(LABEL) == "true")


async def test_readyz_tells_of_the_sandboxer(tmp_path: Path) -> None:
    kube = new_cluster()
    kube.cluster.create(NODES, {"metadata": {"name": "node-a"}})
    async with KuasarNode(tmp_path, Form.GRPC) as node:
        settings = settings_for(tmp_path, node)
        vmm = FakeVmm("inst", settings.run_dir / "vms")
        async with running_agent(tmp_path, settings, vmm, kube, virtual=False) as world:
            await world.until(lambda: SANDBOXER in world.health.states())
            await world.until(lambda: world.health.states()[SANDBOXER].is_ready)
