"""The rights that deploy/rbac.yaml lists, those that the roles of the manifests grant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tests.kube import manifests
from tests.kube.audit import Role

DEPLOY = Path(__file__).parents[2] / "deploy"
LIST = DEPLOY / "rbac.yaml"
MANIFESTS = ("rbac-controlplane.yaml", "rbac-agentd.yaml")
ROLES = ("Role", "ClusterRole")


@dataclass(frozen=True)
class Right:
    """One verb on one resource. name: the right is for the object of this name alone."""

    role: Role
    group: str
    resource: str
    verb: str
    name: str = ""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a role may do with one resource, and why."""

    group: str
    resource: str
    names: tuple[str, ...] = ()
    design: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    why: str = ""

    @property
    def granted(self) -> tuple[str, ...]:
        """The verbs."""
        return tuple(verb for verb in (*self.design, *self.added) if verb not in self.left_out)


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One role of the list."""

    kind: str
    name: str
    rights: tuple[Row, ...]
    namespace: str = ""

    @property
    def role(self) -> Role:
        """As audit.py names it."""
        return Role(self.kind, self.name, self.namespace)


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    roles: tuple[Listed, ...]


def read_list() -> tuple[Listed, ...]:
    """deploy/rbac.yaml."""
    return msgspec.convert(yaml.safe_load(LIST.read_text()), _Document).roles


def rights_listed(roles: Iterable[Listed]) -> set[Right]:
    """Everything that the list says is granted."""
    return {
        Right(one.role, row.group, row.resource, verb, name)
        for one in roles
        for row in one.rights
        for verb in row.granted
        for name in row.names or ("",)
    }


def read_roles() -> list[dict[str, Any]]:
    """The roles of the manifests."""
    found = [item for file in MANIFESTS for item in manifests.load(DEPLOY / "kubernetes" / file)]
    return [item for item in found if item["kind"] in ROLES]


def rights_granted(roles: Iterable[dict[str, Any]]) -> set[Right]:
    """Everything that the manifests grant."""
    return {right for role in roles for right in _rights_of(role)}


def _rights_of(item: dict[str, Any]) -> Iterator[Right]:
    meta = item["metadata"]
    role = Role(item["kind"], meta["name"], meta.get("namespace", ""))
    for rule in item["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames", [""]):
                        yield Right(role, group, resource, verb, name)


def table(roles: Iterable[Listed]) -> str:
    """What is granted, as docs/crds.md shows it."""
    lines = ["| role | where | on | may | beyond the design, because |", "|---|---|---|---|---|"]
    lines += [_line(one, row) for one in roles for row in one.rights if row.granted]
    return "\n".join(lines) + "\n"


def _line(one: Listed, row: Row) -> str:
    where = f"`{one.namespace}`" if one.namespace else "everywhere"
    named = f" {', '.join(f'`{name}`' for name in row.names)}" if row.names else ""
    why = f"{', '.join(row.added)}: {row.why}" if row.added else ""
    verbs = ", ".join(row.granted)
    return f"| `{one.name}` | {where} | `{row.resource}`{named} | {verbs} | {why} |"
