"""Tell whether a Pod that started cold waits for an injection that will never come.

A guest that was built to be snapshotted waits at its gate until a sandboxer injects a session. A
sandboxer injects after a restore alone; after a silent cold boot nobody ever will.
"""

from __future__ import annotations

import asyncio
import enum
from datetime import datetime
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from agentd.node.restore_pods import SessionPod

LOOK_S: Final = 3.0
_BODY_MAX_BYTES: Final = 256 * 1024
# What the guest contract leaves open while the gate is closed; the cheaper one first.
_PATHS: Final = ("/health", "/runtime/status")


class Gate(enum.StrEnum):
    """What a guest says of its gate."""

    OPEN = "open"
    CLOSED = "closed"
    UNTOLD = "untold"


class Waiting(enum.StrEnum):
    """Whether a Pod waits for an injection."""

    # Nor will it: a gate that is open stays so.
    NEVER = "never"
    NOT_YET_KNOWN = "not_yet_known"
    # It may just be slow.
    SUSPECTED = "not_ready"
    CERTAIN = "gate_closed"


# -- decisions ------------------------------------------------------------------------------------


def read_gate(status: int, body: bytes) -> Gate:
    """What an answer says; whatever is no answer of a guest of ours says nothing."""
    if status != 200:
        return Gate.UNTOLD
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Gate.UNTOLD
    if not isinstance(said, dict):
        return Gate.UNTOLD
    gate = said.get("gate")
    if gate in (Gate.OPEN, Gate.CLOSED):
        return Gate(gate)
    # Only one that waits may be snapshotted.
    return Gate.CLOSED if said.get("safeToSnapshot") is True else Gate.UNTOLD


def wait_s(pod: SessionPod, now: datetime, stuck_s: float) -> float | None:
    """How long a cold Pod is still left alone, seconds, at least 0; None: until it changes."""
    if pod.started_at is None:
        return None
    return max(0.0, stuck_s - (now - pod.started_at).total_seconds())


def judge_waiting(gate: Gate, *, is_ready: bool) -> Waiting:
    """Whether a cold Pod waits that has had its time.

    A guest of ours serves /health with its gate closed, and so is Ready all the same; only of a
    guest that says nothing does being Ready, or not, decide.
    """
    match gate:
        case Gate.OPEN:
            return Waiting.NEVER
        case Gate.CLOSED:
            return Waiting.CERTAIN
        case Gate.UNTOLD:
            return Waiting.NEVER if is_ready else Waiting.SUSPECTED


# -- looking --------------------------------------------------------------------------------------


async def look_at_guest(host: str, port: int) -> Gate:
    """Ask the guest at an address, within three seconds; it may be anything, and say anything.

    Nothing is followed, unpacked, kept, or read beyond a limit. Cancellation: hangs up.
    """
    try:
        async with asyncio.timeout(LOOK_S), _client() as client:
            for path in _PATHS:
                url = URL.build(scheme="http", host=host, port=port, path=path)
                gate = read_gate(*await _fetch(client, url))
                if gate is not Gate.UNTOLD:
                    return gate
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        pass
    return Gate.UNTOLD


def _client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    )


async def _fetch(client: aiohttp.ClientSession, url: URL) -> tuple[int, bytes]:
    async with client.get(url, allow_redirects=False) as answer:
        body = b""
        while len(body) <= _BODY_MAX_BYTES:
            part = await answer.content.read(_BODY_MAX_BYTES)
            if not part:
                return answer.status, body
            body += part
        return answer.status, b""
