"""Make the manifests of deploy/ fit for a cluster whose programs are processes of this host."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from bench.machine import ROOT
from tests.kube import manifests

Object = dict[str, Any]

DEPLOY = ROOT / "deploy" / "kubernetes"
CRDS = ROOT / "deploy" / "crds"
EXAMPLES = DEPLOY / "examples"
NAMESPACE = "agentcube-system"
ACCOUNT = "snapstart-controlplane"
AGENTS = "snapstart:agents"
# What an administrator puts on a node whose container runtime has a sandboxer.
AGENT_LABEL = {"snapstart.agentcube.volcano.sh/agentd": "true"}
# What a Deployment or a DaemonSet would run is run by us.
_APPLIED = (
    "namespace.yaml",
    "rbac-controlplane.yaml",
    "rbac-agentd.yaml",
    "agentd-policy.yaml",
    "runtimeclass.yaml",
)


def agent_user(node: str) -> str:
    """The user that a node's certificate is for, as deploy/kubernetes/rbac-agentd.yaml says."""
    return f"snapstart:agentd:{node}"


def installation(webhook_port: int) -> list[Object]:
    """What an administrator applies, in order. The CRDs come before."""
    found = [item for file in _APPLIED for item in manifests.load(DEPLOY / file)]
    hooks = manifests.load(DEPLOY / "webhooks.yaml")
    return found + [called_by_url(item, webhook_port) for item in hooks]


def daemon_set() -> list[Object]:
    """The agents of nodes whose container runtime has a sandboxer."""
    return manifests.load(DEPLOY / "agentd.yaml")


def called_by_url(configuration: Object, port: int) -> Object:
    """The webhooks called by URL: the address of a Service is kube-proxy's work, on a node."""
    ours = copy.deepcopy(configuration)
    for webhook in ours["webhooks"]:
        path = webhook["clientConfig"].pop("service")["path"]
        webhook["clientConfig"]["url"] = f"https://localhost:{port}{path}"
    return ours


def example(name: str) -> Object:
    """One of the examples for administrators."""
    (found,) = manifests.load(EXAMPLES / f"{name}.yaml")
    return found


def example_path(name: str) -> Path:
    """Where it is."""
    return EXAMPLES / f"{name}.yaml"
