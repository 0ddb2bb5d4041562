"""Keep manifests in Redis or Valkey.

One string for each manifest, without expiry. A write is one script, so that the comparison and the
write are one step of the server, in one round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from redis.exceptions import NoScriptError

from controlplane.api.manifest import Manifest
from controlplane.errors import ConflictError, UnavailableError
from controlplane.store import codec
from controlplane.store.clients import Client, RedisLimits, open_clients
from controlplane.store.endpoint import Endpoint
from controlplane.store.faults import FOREIGN, translate
from controlplane.store.store import KEY_PATTERN, OwnerKey, Stored

_T = TypeVar("_T")
_PAGE: Final = 500


@dataclass(frozen=True)
class _Script:
    """text: gives 1 if it did its work, 0 if the stored text is another."""

    text: str

    @property
    def sha(self) -> str:
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# ARGV: the new text, then the version if there must be one.
_PUT: Final = _Script(
    "if redis.call('GET', KEYS[1]) ~= (ARGV[2] or false) then return 0 end "
    "redis.call('SET', KEYS[1], ARGV[1]) return 1"
)
# ARGV: the version. Absent is success.
_DELETE: Final = _Script(
    "local text = redis.call('GET', KEYS[1]) "
    "if text and text ~= ARGV[1] then return 0 end "
    "redis.call('DEL', KEYS[1]) return 1"
)


class RedisStore:
    """An ArtifactStore in Redis or Valkey. Connects on first use, reconnects by itself.

    Owns its connections until `close`. The user needs GET, SET, DEL, SCAN, EVAL, EVALSHA.
    """

    def __init__(self, endpoint: Endpoint, limits: RedisLimits | None = None) -> None:
        self._endpoint = endpoint
        self._limits = limits or RedisLimits()
        self._clients = open_clients(endpoint, self._limits)
        self._slots = asyncio.Semaphore(self._limits.connections)
        self._is_closed = False

    def __repr__(self) -> str:
        return f"RedisStore({self._endpoint})"

    async def get(self, key: OwnerKey) -> Stored | None:
        """See ArtifactStore."""
        raw = await self._call(f"reading {key}", lambda c: c.execute_command("GET", str(key)))
        return None if raw is None else codec.decode(key, raw)

    async def put(self, key: OwnerKey, manifest: Manifest, version: str | None) -> str:
        """See ArtifactStore."""
        text = codec.encode(key, manifest, version)
        arguments = (text,) if version is None else (text, version)
        await self._compare_and(f"writing {key}", _PUT, key, *arguments)
        return text

    async def delete(self, key: OwnerKey, version: str | None = None) -> None:
        """See ArtifactStore."""
        what = f"deleting {key}"
        if version is None:
            await self._call(what, lambda client: client.execute_command("DEL", str(key)))
        else:
            await self._compare_and(what, _DELETE, key, version)

    async def list(self) -> AsyncIterator[OwnerKey]:
        """See ArtifactStore."""
        seen: set[bytes] = set()  # a scan may give a key twice
        keys = self._clients[0].scan_iter(match=KEY_PATTERN, count=_PAGE)
        async with contextlib.aclosing(keys):
            while raw := await self._call("listing manifests", lambda _: anext(keys, None)):
                key = None if raw in seen else OwnerKey.parse(raw.decode(errors="replace"))
                seen.add(raw)
                if key is not None:
                    yield key

    async def close(self) -> None:
        """See ArtifactStore. Calls under way end with UnavailableError."""
        self._is_closed = True
        for client in self._clients:
            with contextlib.suppress(*FOREIGN):
                await client.aclose()

    async def _compare_and(self, what: str, script: _Script, key: OwnerKey, *args: str) -> None:
        async def run(client: Client) -> Any:
            try:
                return await client.execute_command("EVALSHA", script.sha, 1, str(key), *args)
            except NoScriptError:
                return await client.execute_command("EVAL", script.text, 1, str(key), *args)

        if await self._call(what, run) != 1:
            raise ConflictError(f"{what} in the store at {self._endpoint}: another wrote it first")

    async def _call(self, what: str, call: Callable[[Client], Awaitable[_T]]) -> _T:
        """Within the time for a call; every foreign error ends here."""
        if self._is_closed:
            raise UnavailableError(f"{what}: the store is closed")
        try:
            async with asyncio.timeout(self._limits.call_s), self._slots:
                return await call(self._clients[0])
        except FOREIGN as exc:
            raise translate(exc, f"{what} in the store at {self._endpoint}") from exc
