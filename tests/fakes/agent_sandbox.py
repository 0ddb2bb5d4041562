"""Sandboxes as the controllers of agent-sandbox create them, in both versions of the API.

Member by member what createPoolSandbox and createSandbox send, with what Go's encoding adds.
"""

from __future__ import annotations

import copy
from typing import Any

from controlplane.api.meta import JsonObject

EXTENSIONS = "extensions.agents.x-k8s.io"
REF = "agents.x-k8s.io/sandbox-template-ref"
REF_HASH = "agents.x-k8s.io/sandbox-template-ref-hash"
POOL = "agents.x-k8s.io/warm-pool-sandbox"
POD_HASH = "agents.x-k8s.io/sandbox-pod-template-hash"


def pool_sandbox(template: JsonObject, version: str) -> JsonObject:
    """A refill of a SandboxWarmPool. version: v1alpha1 (0.4) or v1beta1 (0.5)."""
    labels = {POOL: "1f2e3d4c", REF_HASH: "a1b2c3d4", POD_HASH: "55667788"}
    pod = _pod_template(template)
    pod["metadata"]["labels"] = {**pod["metadata"].get("labels", {}), **labels}
    if version == "v1beta1":
        labels["agents.x-k8s.io/launch-type"] = "warm"
        labels["agents.x-k8s.io/created-by"] = "controller"
        labels["agents.x-k8s.io/sandbox-template-hash"] = "99aabbcc"
        pod["metadata"]["labels"]["agents.x-k8s.io/sandbox-template-hash"] = "99aabbcc"
        pod["metadata"]["annotations"] = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}
    return _sandbox(template, version, pod, "SandboxWarmPool", labels, {"generateName": "pool-"})


def claim_sandbox(template: JsonObject, version: str) -> JsonObject:
    """What a SandboxClaim gets when its pool is empty, or it has none."""
    pod = _pod_template(template)
    claim = {"agents.x-k8s.io/claim-uid": "c1"}
    pod["metadata"]["labels"] = {**pod["metadata"].get("labels", {}), **claim, REF_HASH: "a1b2c3d4"}
    labels = dict(claim)
    if version == "v1beta1":
        labels |= {"agents.x-k8s.io/launch-type": "cold", REF_HASH: "a1b2c3d4"}
    return _sandbox(template, version, pod, "SandboxClaim", labels, {"name": "claim-1"})


def _pod_template(template: JsonObject) -> JsonObject:
    pod: JsonObject = copy.deepcopy(template["spec"]["podTemplate"])
    pod.setdefault("metadata", {})
    spec = pod["spec"]
    for container in spec["containers"]:
        container.setdefault("resources", {})  # a struct without omitempty
    if spec.get("automountServiceAccountToken") is None:
        spec["automountServiceAccountToken"] = False
    if not spec.get("dnsPolicy") and template["spec"].get("networkPolicy") is None:
        spec["dnsPolicy"] = "None"
        spec["dnsConfig"] = {"nameservers": ["8.8.8.8", "1.1.1.1"]}
    return pod


def _sandbox(
    template: JsonObject,
    version: str,
    pod: JsonObject,
    owner: str,
    labels: dict[str, str],
    name: dict[str, str],
) -> JsonObject:
    metadata: dict[str, Any] = {
        **name,
        "namespace": template["metadata"]["namespace"],
        "creationTimestamp": None,
        "labels": labels,
        "annotations": {REF: template["metadata"]["name"]},
        "ownerReferences": [
            {
                "apiVersion": f"{EXTENSIONS}/{version}",
                "kind": owner,
                "name": "owner",
                "uid": "owner-uid",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    spec: JsonObject = {"podTemplate": pod}
    if version == "v1alpha1":
        spec["replicas"] = 1
    return {
        "apiVersion": f"agents.x-k8s.io/{version}",
        "kind": "Sandbox",
        "metadata": metadata,
        "spec": spec,
        "status": {},
    }
