"""Let image authors register functions around the snapshot.

Importable inside the guest as `snapshot_restore_py`, with the names and orders of the module of
that name in AWS Lambda SnapStart: before a snapshot in reverse order of registration, after a
restore in order of registration. Register at import in a preloaded module; each process that
holds the module runs its own copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from agentd.guest.generators import register_generator
from agentd.guest.hooks import call_hook

__all__ = [
    "get_after_restore",
    "get_before_snapshot",
    "register_after_restore",
    "register_before_snapshot",
    "register_generator",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Hook = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_before_snapshot: list[_Hook] = []
_after_restore: list[_Hook] = []


def register_before_snapshot(
    func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
) -> Callable[_P, _R]:
    """Call `func(*args, **kwargs)` before the snapshot is taken; returns `func`."""
    _before_snapshot.append((func, args, kwargs))
    return func


def register_after_restore(
    func: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
) -> Callable[_P, _R]:
    """Call `func(*args, **kwargs)` in every fork before its gate opens; returns `func`."""
    _after_restore.append((func, args, kwargs))
    return func


def get_before_snapshot() -> list[_Hook]:
    """The registered functions, first registered first."""
    return list(_before_snapshot)


def get_after_restore() -> list[_Hook]:
    """The registered functions, first registered first."""
    return list(_after_restore)


def run_before_snapshot() -> None:
    """Run the functions, last registered first. Raises HookError for the first that fails."""
    for hook in reversed(_before_snapshot):
        call_hook(*hook)


def run_after_restore() -> None:
    """Run the functions, first registered first. Raises HookError for the first that fails."""
    for hook in _after_restore:
        call_hook(*hook)
