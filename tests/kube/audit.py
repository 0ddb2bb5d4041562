"""What the API server says that accounts asked of it, and which role let them.

Its audit log has one line for each answer; only the groups in GROUPS are in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kube.flags import Audit

# Everybody whose rights deploy/kubernetes/rbac-*.yaml grant.
GROUPS = ("snapstart:agents", "system:serviceaccounts:agentcube-system")
FORBIDDEN = 403
_REASON = "authorization.k8s.io/reason"
_ALLOWED = re.compile(
    r'RBAC: allowed by (?:Cluster)?RoleBinding "(?P<binding>[^"]+)" of '
    r'(?P<kind>ClusterRole|Role) "(?P<name>[^"]+)"'
)


@dataclass(frozen=True)
class Role:
    """A role as it was bound. namespace: of the binding, empty for the whole cluster."""

    kind: str
    name: str
    namespace: str = ""


@dataclass(frozen=True)
class Request:
    """One answered request. resource: with its subresource. role: None when no role allowed it."""

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    code: int
    role: Role | None

    @property
    def is_refused_by_rbac(self) -> bool:
        """Whether no role allowed it; admission, which also says Forbidden, comes after that."""
        return self.code == FORBIDDEN and self.role is None


def write_policy(directory: Path) -> Audit:
    """The policy file, beside which the log will be."""
    rules = [{"level": "Metadata", "userGroups": list(GROUPS)}, {"level": "None"}]
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": rules,
    }
    path = directory / "audit-policy.json"
    path.write_text(json.dumps(policy))
    return Audit(path, directory / "audit.log")


def read(log: Path) -> list[Request]:
    """The requests about resources so far. A line that is being written is for the next call."""
    if not log.exists():
        return []
    lines = log.read_bytes().split(b"\n")[:-1]
    return [request_of(event) for event in map(json.loads, lines) if "objectRef" in event]


def request_of(event: dict[str, Any]) -> Request:
    """One line of the log."""
    subject = event["objectRef"]
    resource, below = subject["resource"], subject.get("subresource")
    return Request(
        user=event["user"]["username"],
        verb=event["verb"],
        group=subject.get("apiGroup", ""),
        resource=f"{resource}/{below}" if below else resource,
        namespace=subject.get("namespace", ""),
        name=subject.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        role=role_of((event.get("annotations") or {}).get(_REASON, "")),
    )


def role_of(reason: str) -> Role | None:
    """The role in an authorizer's reason; a RoleBinding is told as `name/namespace`."""
    found = _ALLOWED.match(reason)
    if found is None:
        return None
    namespace = found["binding"].partition("/")[2]
    return Role(found["kind"], found["name"], namespace)


def refused(requests: Iterable[Request]) -> list[Request]:
    """Those that no role allowed."""
    return [one for one in requests if one.is_refused_by_rbac]
