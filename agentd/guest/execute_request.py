"""Validate what a host wants executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.guest.wire import JsonObject

DEFAULT_OUTPUT_BYTES = 1024 * 1024
DEFAULT_RESULT_BYTES = 10 * 1024 * 1024


class RequestError(ValueError):
    """An execute request that cannot be served."""


@dataclass(frozen=True)
class Request:
    """A validated execute request; sizes in bytes, times in seconds."""

    code: str
    execution_id: str = ""
    timeout_s: float | None = None
    max_output_bytes: int = DEFAULT_OUTPUT_BYTES
    max_result_bytes: int = DEFAULT_RESULT_BYTES
    env: Mapping[str, str] = field(default_factory=dict)
    is_rehearsal: bool = False


def parse_request(message: JsonObject) -> Request:
    """Raises RequestError naming the member that is wrong."""
    code = message.get("code")
    if not isinstance(code, str):
        raise RequestError("member 'code' is not text")
    timeout_s = message.get("timeout_s")
    if timeout_s is not None and not (_is_number(timeout_s) and timeout_s > 0):
        raise RequestError("member 'timeout_s' is not a number above 0")
    env = message.get("env") or {}
    if not isinstance(env, dict) or not all(_is_variable(*item) for item in env.items()):
        raise RequestError("member 'env' is not an object of text")
    return Request(
        code=code,
        execution_id=str(message.get("execution_id", "")),
        timeout_s=timeout_s,
        max_output_bytes=_size(message, "max_output_bytes", DEFAULT_OUTPUT_BYTES),
        max_result_bytes=_size(message, "max_result_bytes", DEFAULT_RESULT_BYTES),
        env=env,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_variable(name: str, text: object) -> bool:
    return bool(name) and "=" not in name and isinstance(text, str) and "\0" not in name + text


def _size(message: JsonObject, name: str, default: int) -> int:
    value = message.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestError(f"member {name!r} is not a whole number")
    return value
