"""Apply JSON patches (RFC 6902) as an API server does: the operations that ours may use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from controlplane.sessions.review import PatchStep


def apply_patch(document: Any, steps: Iterable[PatchStep]) -> Any:
    """The document after the steps. Raises: KeyError where an API server refuses the patch."""
    for step in steps:
        *parents, last = [_unescaped(part) for part in step.path.split("/")[1:]]
        holder = document
        for part in parents:
            holder = holder[part]
        match step.op:
            case "add":
                assert step.value is not msgspec.UNSET
                holder[last] = step.value
            case "remove":
                del holder[last]
            case _:
                raise KeyError(step.op)
    return document


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")
