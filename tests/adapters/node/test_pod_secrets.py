"""What a Pod takes from a Secret reaches its guest, and no log, object or file of ours."""

from __future__ import annotations

import base64
import json
import uuid
from pathlib import Path

from controlplane.kube.resource import EVENTS, PODS, SECRETS
from tests.adapters.node.world import new_cluster, running_world

SERVED = {"pod_cidr": "127.88.9.0/24"}


def variables(key: str) -> dict[str, object]:
    reference = {"secretKeyRef": {"name": "keys", "key": key}}
    return {"env": [{"name": "API_TOKEN", "valueFrom": reference}]}


def files_with(root: Path, text: str) -> list[Path]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


async def test_a_pods_secret_is_in_no_step_object_or_file(tmp_path: Path) -> None:
    secret = f"planted-{uuid.uuid4().hex}"
    async with running_world(tmp_path, new_cluster(), **SERVED) as world:
        encoded = base64.b64encode(secret.encode()).decode()
        world.make(SECRETS, "keys", data={"token": encoded, "LD_PRELOAD": encoded})
        world.pod("good", container=variables("token"))
        await world.until_ready("good")
        session = world.engine.sessions.list()[0]
        # What the stand-in for a guest was told: it is where the secret belongs.
        prepare = tmp_path / "run/vms" / session.id / "prepare"
        assert secret in prepare.read_text()
        refused = variables("token")
        refused["env"][0]["name"] = "LD_PRELOAD"  # type: ignore[index]
        world.pod("bad", container=refused)
        await world.until(lambda: len(world.events()) > 0)
        told = json.dumps([world.trace.steps, str(session.facts)], default=str)
        told += json.dumps([world.kube.cluster.list(kind) for kind in (PODS, EVENTS)], default=str)
        assert "good" in told
        assert secret not in told
        assert encoded not in told
        assert files_with(tmp_path, secret) == [prepare]
