"""Decide which taints a Pod tolerates."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from controlplane.api.core import Taint
from controlplane.api.meta import JsonObject

HARD_EFFECTS: Final = ("NoSchedule", "NoExecute")  # PreferNoSchedule is a wish


def toleration_order(toleration: JsonObject) -> tuple[str, str, str, str, bool, int, str]:
    """A total order: equal only for equal tolerations; missing seconds come first."""
    key, operator, value, effect = (
        str(toleration.get(name) or "") for name in ("key", "operator", "value", "effect")
    )
    seconds = toleration.get("tolerationSeconds")
    number = seconds if isinstance(seconds, int) else 0
    whole = json.dumps(toleration, sort_keys=True)
    return key, operator, value, effect, seconds is not None, number, whole


def find_untolerated(taints: Iterable[Taint], tolerations: Iterable[JsonObject]) -> Taint | None:
    """The first taint that keeps the Pod away."""
    known = tuple(tolerations)
    hard = (taint for taint in taints if taint.effect in HARD_EFFECTS)
    return next((t for t in hard if not any(is_tolerated(t, one) for one in known)), None)


def is_tolerated(taint: Taint, toleration: JsonObject) -> bool:
    """Whether this toleration covers the taint; an empty key needs Exists, and covers all."""
    effect, key = toleration.get("effect") or "", toleration.get("key") or ""
    operator = toleration.get("operator") or "Equal"
    if effect not in ("", taint.effect) or key not in ("", taint.key):
        return False
    if operator == "Exists":
        return True
    return operator == "Equal" and bool(key) and (toleration.get("value") or "") == taint.value
