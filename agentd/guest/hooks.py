"""Call what image authors have registered, so that a failure names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class HookError(Exception):
    """An author's function raised; the text names it, the exception, the exception's message."""


def call_hook(
    func: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> None:
    """Call it. Raises HookError in place of any exception, SystemExit included."""
    try:
        func(*args, **(kwargs or {}))
    except (Exception, SystemExit) as exc:
        raise HookError(f"{name_of(func)} raised {type(exc).__name__}: {_text_of(exc)}") from exc


def name_of(func: Callable[..., Any]) -> str:
    """Module and qualified name; what there is of them for other callables."""
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    return f"{getattr(func, '__module__', None) or '?'}.{name}"


def _text_of(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:
        return "<its text cannot be shown>"


def explain(exc: BaseException) -> str:
    """One line about an exception for whoever waits; a HookError speaks for itself."""
    return _text_of(exc) if isinstance(exc, HookError) else f"{type(exc).__name__}: {_text_of(exc)}"
