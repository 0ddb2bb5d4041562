"""The Python client of the node agent.

>>> from agentd.client import Sandbox                               # doctest: +SKIP
>>> with Sandbox.create(template="python") as sbx:                  # doctest: +SKIP
...     sbx.run_code("x = 20")
...     print(sbx.run_code("x + 1").text)
21

`AsyncSandbox` is the same under asyncio; it is imported only when asked for, because aiohttp costs
more to import than a session costs to start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentd.client.execution import Execution, ExecutionError, Logs, OutputMessage, Result
from agentd.client.sandbox import Files, Sandbox
from agentd.client.transport import Transport

if TYPE_CHECKING:
    from agentd.client.aio import AsyncTransport
    from agentd.client.async_sandbox import AsyncFiles, AsyncSandbox

_LAZY = {
    "AsyncFiles": "agentd.client.async_sandbox",
    "AsyncSandbox": "agentd.client.async_sandbox",
    "AsyncTransport": "agentd.client.aio",
}

__all__ = [
    "AsyncFiles",
    "AsyncSandbox",
    "AsyncTransport",
    "Execution",
    "ExecutionError",
    "Files",
    "Logs",
    "OutputMessage",
    "Result",
    "Sandbox",
    "Transport",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
