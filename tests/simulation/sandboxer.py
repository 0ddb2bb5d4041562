"""What others do in a cluster: agent-sandbox, kubelet, garbage collection (a model)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any, Protocol

from controlplane.api.core import Pod, Sandbox
from controlplane.api.meta import JsonObject
from controlplane.errors import ControlPlaneError
from controlplane.kube.cache import Changed, Key
from controlplane.kube.resource import NODES, PODS, SNAPSHOTS
from tests.fakes.kube_cluster import FakeCluster

from .driver import LONG, Machine
from .loop import SimLoop
from .truth import SANDBOXES, Truth


class Place(Protocol):
    """What the models see of the world."""

    loop: SimLoop
    random: Random
    cluster: FakeCluster
    truth: Truth
    machines: dict[str, Machine]
    down: set[str]
    bad_images: set[str]
    hung: set[str]

    @property
    def now(self) -> datetime:
        """UTC."""

    def trace(self, text: str) -> None:
        """One line."""


class Sandboxer:
    """Sandbox to Pod to Ready or Failed; one effect in one turn."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._due: dict[tuple[str, Key], None] = {}
        self._starting: set[str] = set()
        self._made: dict[str, tuple[int, float]] = {}
        self._needs_collection = False
        truth = place.truth
        truth.listen(SANDBOXES, lambda change: self._touch("sandbox", change))
        truth.listen(PODS, self._pod_changed)
        truth.listen(NODES, self._node_changed)
        truth.listen(SNAPSHOTS, self._owner_changed)

    @property
    def has_work(self) -> bool:
        """There is something to look at."""
        return bool(self._due) or self._needs_collection

    def turn(self) -> None:
        """One look at one thing."""
        random = self._place.random
        if self._needs_collection and (not self._due or random.random() < 0.3):
            self._needs_collection = False
            count = self._place.cluster.collect_garbage()
            self._place.trace(f"garbage collection: {count}")
            return
        kind, key = random.choice(list(self._due))
        del self._due[kind, key]
        try:
            if kind == "sandbox":
                self._see_sandbox(key)
            else:
                self._see_pod(key)
        except ControlPlaneError as exc:
            self._place.trace(f"model {kind} {key[1]}: {exc}")
            self._due[kind, key] = None

    def look_again(self) -> None:
        """Machines came or went: look at everything."""
        for sandbox in self._place.truth.sandboxes.all():
            self._due["sandbox", (sandbox.metadata.namespace, sandbox.metadata.name)] = None
        for pod in self._place.truth.pods.all():
            self._due["pod", (pod.metadata.namespace, pod.metadata.name)] = None

    def _touch(self, kind: str, change: Changed[Any]) -> None:
        self._due[kind, change.key] = None
        if change.new is None:
            self._needs_collection = True

    def _pod_changed(self, change: Changed[Pod]) -> None:
        self._touch("pod", change)
        self._due["sandbox", change.key] = None

    def _node_changed(self, change: Changed[Any]) -> None:
        if change.new is None or change.old is None:
            self._needs_collection = True
            self.look_again()

    def _owner_changed(self, change: Changed[Any]) -> None:
        if change.new is None:
            self._needs_collection = True

    # agent-sandbox

    def _see_sandbox(self, key: Key) -> None:
        place = self._place
        sandbox = place.truth.sandboxes.get(key[1], key[0])
        if sandbox is None:
            return
        pod = place.truth.pods.get(key[1], key[0])
        expiry = sandbox.spec.shutdown_time
        if expiry is not None and expiry <= place.now:
            place.trace(f"agent-sandbox: {key[1]} expired")
            place.cluster.delete(SANDBOXES, key[1], namespace=key[0])
            return
        if expiry is not None:
            delay_s = (expiry - place.now).total_seconds() + 1
            self._later(delay_s, lambda: self._due.__setitem__(("sandbox", key), None))
        ready = sandbox.condition("Ready")
        is_over = ready is not None and ready.reason in ("PodFailed", "PodSucceeded")
        if pod is None and not is_over:
            self._make_pod_in_time(sandbox)
        elif pod is not None:
            self._report(sandbox, pod)

    def _later(self, delay_s: float, effect: Callable[[], None]) -> None:
        self._place.loop.call_later(delay_s, effect)

    def _make_pod_in_time(self, sandbox: Sandbox) -> None:
        """A Pod that was lost is made again after a delay, which grows."""
        uid, key = sandbox.metadata.uid, (sandbox.metadata.namespace, sandbox.metadata.name)
        made, due_s = self._made.get(uid, (0, 0.0))
        now_s = self._place.loop.now_s
        if now_s < due_s:
            self._later(due_s - now_s, lambda: self._due.__setitem__(("sandbox", key), None))
            return
        self._made[uid] = (made + 1, now_s + min(300.0, 5.0 * 2**made))
        self._make_pod(sandbox)

    def _make_pod(self, sandbox: Sandbox) -> None:
        meta, template = sandbox.metadata, sandbox.spec.pod_template
        spec = dict(template.spec)
        if not spec.get("nodeName"):
            nodes = sorted(node.metadata.name for node in self._place.truth.nodes.all())
            if not nodes:
                return
            spec["nodeName"] = self._place.random.choice(nodes)
        body: JsonObject = {
            "metadata": {
                "name": meta.name,
                "namespace": meta.namespace,
                "labels": dict(template.metadata.labels or {}),
                "annotations": dict(template.metadata.annotations or {}),
                "ownerReferences": [
                    {
                        "apiVersion": SANDBOXES.api_version,
                        "kind": "Sandbox",
                        "name": meta.name,
                        "uid": meta.uid,
                        "controller": True,
                    }
                ],
            },
            "spec": spec,
            "status": {"phase": "Pending"},
        }
        self._place.cluster.create(PODS, body)
        self._place.trace(f"agent-sandbox: Pod {meta.name} on {spec['nodeName']}")

    def _report(self, sandbox: Sandbox, pod: Pod) -> None:
        owner = pod.metadata.controller
        if owner is None or owner.uid != sandbox.metadata.uid:
            return
        phase = pod.status.phase
        is_ready = phase == "Running" and not pod.metadata.is_terminating
        reason = {"Failed": "PodFailed", "Succeeded": "PodSucceeded"}.get(
            phase, "DependenciesReady"
        )
        condition = {
            "type": "Ready",
            "status": "True" if is_ready else "False",
            "reason": reason if is_ready or reason.startswith("Pod") else "DependenciesNotReady",
            "message": LONG if reason == "PodFailed" else "",
            "lastTransitionTime": f"{self._place.now:%Y-%m-%dT%H:%M:%SZ}",
        }
        known = sandbox.condition("Ready")
        if known and (known.status, known.reason) == (condition["status"], condition["reason"]):
            return
        meta = sandbox.metadata
        patch = {"status": {"conditions": [condition]}}
        self._place.cluster.merge(
            SANDBOXES, meta.name, patch, namespace=meta.namespace, subresource="status"
        )
        self._place.trace(f"agent-sandbox: {meta.name} {reason} {condition['status']}")

    # kubelet, Pod garbage collection

    def _see_pod(self, key: Key) -> None:
        place = self._place
        pod = place.truth.pods.get(key[1], key[0])
        if pod is None:
            return
        node = place.truth.nodes.get(pod.node_name)
        if node is None:
            place.trace(f"pod garbage collection: {key[1]}")
            place.cluster.delete(PODS, key[1], namespace=key[0], grace_s=0)
        elif pod.node_name in place.down:
            return  # looked at again when the machine is back
        elif pod.metadata.is_terminating:
            place.trace(f"kubelet {pod.node_name}: Pod {key[1]} ended")
            place.cluster.delete(PODS, key[1], namespace=key[0], grace_s=0)
        elif pod.status.phase == "Pending" and pod.metadata.uid not in place.hung:
            self._start_pod(pod)

    def _start_pod(self, pod: Pod) -> None:
        uid, place = pod.metadata.uid, self._place
        image = pod.spec["containers"][0]["image"]
        is_bad = image in place.bad_images
        key = (pod.metadata.namespace, pod.metadata.name)
        label = f"starting {uid}"
        if label not in self._starting:
            self._starting.add(label)
            delay_s = place.random.choice((0.0, 1.0, 5.0, 40.0))
            self._later(delay_s, lambda: self._due.__setitem__(("pod", key), None))
            return
        self._starting.discard(label)
        phase = "Failed" if is_bad else "Running"
        if not is_bad:
            place.machines[pod.node_name].running.add(uid)
        place.trace(f"kubelet {pod.node_name}: Pod {pod.metadata.name} {phase}")
        place.cluster.merge(
            PODS,
            pod.metadata.name,
            {"status": {"phase": phase}},
            namespace=pod.metadata.namespace,
            subresource="status",
        )
