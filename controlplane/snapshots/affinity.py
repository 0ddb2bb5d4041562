"""Decide whether a node satisfies a Pod's required node affinity."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from controlplane.api.core import Node
from controlplane.api.meta import JsonObject

_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_NAME_FIELD: Final = "metadata.name"


def matches_affinity(pod_spec: JsonObject, node: Node) -> bool:
    """True where nothing is required; terms are alternatives, no term at all matches nothing.

    Source: k8s.io/component-helpers, scheduling/corev1/nodeaffinity.
    """
    required = _member(_member(pod_spec.get("affinity"), "nodeAffinity"), _REQUIRED)
    if required is None:
        return True
    terms = _member(required, "nodeSelectorTerms") or ()
    return any(_matches_term(term, node) for term in terms)


def _matches_term(term: Any, node: Node) -> bool:
    """All of its expressions and fields; a term without any matches nothing."""
    expressions = _member(term, "matchExpressions") or ()
    fields = _member(term, "matchFields") or ()
    if not expressions and not fields:
        return False
    labels = node.metadata.labels or {}
    return all(_matches_label(one, labels) for one in expressions) and all(
        _matches_field(one, node.metadata.name) for one in fields
    )


def _matches_label(expression: Any, labels: Mapping[str, str]) -> bool:
    label = labels.get(str(_member(expression, "key") or ""))
    values = _member(expression, "values") or ()
    match _member(expression, "operator"):
        case "In":
            return label is not None and label in values
        case "NotIn":
            return bool(values) and (label is None or label not in values)
        case "Exists":
            return not values and label is not None
        case "DoesNotExist":
            return not values and label is None
        case "Gt" | "Lt" as operator:
            return _compares(label, values, is_greater=operator == "Gt")
        case _:
            return False


def _compares(label: str | None, values: Sequence[Any], *, is_greater: bool) -> bool:
    """A label's number against the only value; what is no number matches nothing."""
    if label is None or len(values) != 1:
        return False
    if not _INTEGER.fullmatch(label) or not _INTEGER.fullmatch(str(values[0])):
        return False
    left, right = int(label), int(values[0])
    return left > right if is_greater else left < right


def _matches_field(expression: Any, name: str) -> bool:
    """Fields know one key, and exactly one value."""
    values: Sequence[Any] = _member(expression, "values") or ()
    if _member(expression, "key") != _NAME_FIELD or len(values) != 1:
        return False
    match _member(expression, "operator"):
        case "In":
            return bool(name == values[0])
        case "NotIn":
            return bool(name != values[0])
        case _:
            return False


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
