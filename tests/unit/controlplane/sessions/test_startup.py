from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from controlplane.api import names
from controlplane.api.core import Sandbox
from controlplane.sessions.metrics import SessionMetrics
from controlplane.sessions.startup import StartupTimes
from tests.fakes.agent_sandbox import pool_sandbox
from tests.fakes.session_world import NAMESPACE, NOW, POD_SPEC, TEMPLATE, sandbox_body

NAME = "agentcube_session_startup_duration_seconds"


class World:
    def __init__(self) -> None:
        self.now = NOW
        self.registry = CollectorRegistry()
        self.times = StartupTimes(SessionMetrics(self.registry), lambda: self.now)
        self.now += timedelta(seconds=10)

    def see(self, body: dict[str, Any] | None = None, *, ready: bool = False, **meta: Any) -> None:
        body = body or sandbox_body()
        created = (meta.pop("created", None) or self.created).isoformat()
        body["metadata"] |= {"uid": "u", "creationTimestamp": created, **meta}
        status = "True" if ready else "False"
        body["status"] = {"conditions": [{"type": "Ready", "status": status}]}
        self.times.changed(msgspec.convert(body, Sandbox))

    @property
    def created(self) -> datetime:
        return NOW + timedelta(seconds=10)

    def after(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def seen(self, path: str) -> tuple[float, float]:
        count = self.registry.get_sample_value(f"{NAME}_count", {"path": path}) or 0.0
        total = self.registry.get_sample_value(f"{NAME}_sum", {"path": path}) or 0.0
        return count, round(total, 3)


def test_a_cold_session_is_measured_once() -> None:
    world = World()
    world.see()
    world.after(3.5)
    world.see(ready=True)
    world.see(ready=False)
    world.see(ready=True)
    assert world.seen("cold") == (1, 3.5)


def test_a_session_with_an_intent_counts_as_snapshot() -> None:
    world = World()
    body = sandbox_body(pod_annotations={names.SNAPSHOT_KEY: "k"})
    world.see(body)
    world.after(0.4)
    world.see(body, ready=True)
    assert world.seen("snapshot") == (1, 0.4)


def test_a_refill_of_a_pool_is_apart_also_when_a_claim_takes_it_meanwhile() -> None:
    world = World()
    template = {
        "metadata": {"name": TEMPLATE, "namespace": NAMESPACE},
        "spec": {"podTemplate": {"spec": POD_SPEC}},
    }
    body = pool_sandbox(template, "v1beta1")
    world.see(body, name="pool-1")
    world.after(1.0)
    world.see(body, ready=True, name="pool-1", ownerReferences=[])
    assert world.seen("sandbox_warmpool") == (1, 1.0)


def test_what_was_there_before_is_not_measured() -> None:
    world = World()
    world.see(created=NOW - timedelta(seconds=1))
    world.see(created=NOW, ready=True)
    assert world.seen("cold") == (0, 0)


def test_a_late_watch_counts_from_the_creation() -> None:
    world = World()
    world.after(20)
    world.see()
    world.see(ready=True)
    assert world.seen("cold") == (1, 20.0)


def test_a_build_is_no_session() -> None:
    owner = {"apiVersion": names.API_VERSION, "kind": "SandboxSnapshot", "controller": True}
    world = World()
    labels = {names.TEMPLATE_SANDBOX: "true"}
    world.see(sandbox_body(labels=labels, ownerReferences=[owner]), ready=True)
    assert world.seen("cold") == (0, 0)


def test_a_session_that_goes_before_it_is_ready_leaves_nothing() -> None:
    world = World()
    world.see()
    world.times.gone("u")
    world.times.gone("u")
    assert not world.times._waiting
    assert not world.times._measured
