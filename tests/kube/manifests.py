"""What the published manifests of agent-sandbox and AgentCube hold, made fit for a test cluster."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

# The pure Python loader takes seconds for the long ones.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The controller runs here as a process, so that of its manifests only its rights are wanted.
RIGHTS = frozenset(
    {"Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
)
ACCOUNT_NAMESPACE = "agent-sandbox-system"
ACCOUNT_NAME = "agent-sandbox-controller"


def load(path: Path) -> list[Object]:
    """The objects of a YAML file, or of the *.yaml files of a folder by name."""
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    found: list[Object] = []
    for file in files:
        with file.open("rb") as stream:
            found.extend(item for item in yaml.load_all(stream, LOADER) if item)
    return found


def crds_of(items: Iterable[Path | Object]) -> list[Object]:
    """The CustomResourceDefinitions among objects, files, folders."""
    objects: list[Object] = []
    for item in items:
        objects.extend(load(item) if isinstance(item, Path) else [item])
    return [item for item in objects if item["kind"] == "CustomResourceDefinition"]


def access_of(objects: Iterable[Object]) -> list[Object]:
    """The namespace, the account, its roles."""
    return [item for item in objects if item["kind"] in RIGHTS]


def converts_by_webhook(crd: Object) -> bool:
    """Whether versions of this CRD are converted by a webhook."""
    return bool(crd["spec"].get("conversion", {}).get("strategy") == "Webhook")


def with_webhook_at(crd: Object, url: str, ca: bytes) -> Object:
    """The CRD with its conversion webhook called by `url` instead of by a service.

    A service's address is made reachable by kube-proxy on a node, which no test cluster has. A CRD
    without such a webhook comes back as it is.
    """
    if not converts_by_webhook(crd):
        return crd
    ours = copy.deepcopy(crd)
    ours["spec"]["conversion"]["webhook"]["clientConfig"] = {
        "url": url,
        "caBundle": base64.b64encode(ca).decode(),
    }
    return ours


def is_established(crd: Object) -> bool:
    """Whether the API server serves the resource, with every name that it asks for."""
    conditions = crd.get("status", {}).get("conditions") or ()
    states = {row["type"]: row["status"] for row in conditions}
    return states.get("Established") == "True" and states.get("NamesAccepted") == "True"
