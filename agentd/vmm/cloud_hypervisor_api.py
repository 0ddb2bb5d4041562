"""Call Cloud Hypervisor over its HTTP socket (vmm/src/api of Cloud Hypervisor)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec

from agentd.errors import (
    ErrorCode,
    PeerError,
    PermanentError,
    SnapStartError,
)
from agentd.vmm.host_lacks import host_lacks
from agentd.vmm.http_socket import Answer, HttpSocket

_ROOT: Final = "/api/v1/"
_SHOWN_CHARS: Final = 1000
_TRACE: Final = "\n\nStack backtrace"

T = TypeVar("T")


class Ping(msgspec.Struct, frozen=True):
    """Who answers. build_version: as `--version` prints it. version: the release it will be."""

    build_version: str
    version: str
    pid: int


class Info(msgspec.Struct, frozen=True):
    """A machine as its monitor sees it."""

    config: dict[str, Any]
    state: str


class Restore(msgspec.Struct, frozen=True, omit_defaults=True):
    """What vm.restore is told. memory_restore_mode: of versions that know it."""

    source_url: str
    memory_restore_mode: str | None = None


class UnknownModeError(Exception):
    """A version does not have the memory mode it was told; it has done nothing."""


class Api:
    """One monitor's interface. Use in `async with`.

    Every call raises PeerError when the monitor refuses, hangs up or speaks another language;
    TransientError when the host has no room for what it was told to do, or at the deadline;
    PermanentError when a snapshot does not fit this host.
    """

    def __init__(self, path: Path) -> None:
        self._http = HttpSocket(path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._http.close()

    async def ping(self, *, deadline_s: float) -> Ping:
        """Wait until it serves; who it is."""
        return _decoded("vmm.ping", await self._get("vmm.ping", deadline_s), Ping)

    async def info(self, *, deadline_s: float) -> Info:
        """The machine it has."""
        return _decoded("vm.info", await self._get("vm.info", deadline_s), Info)

    async def create(self, config: dict[str, Any], *, deadline_s: float) -> None:
        """Describe a machine."""
        await self._put("vm.create", config, deadline_s)

    async def boot(self, *, deadline_s: float) -> None:
        """Start the machine that was described."""
        await self._put("vm.boot", None, deadline_s)

    async def pause(self, *, deadline_s: float) -> None:
        """Stop it; one that is stopped already is an error."""
        await self._put("vm.pause", None, deadline_s)

    async def resume(self, *, deadline_s: float) -> None:
        """Let it go on."""
        await self._put("vm.resume", None, deadline_s)

    async def snapshot(self, directory: str, *, deadline_s: float) -> None:
        """Save it into a directory without a snapshot. Files are whole once this has returned:
        the one with the memory has its full length from the beginning, since v52.
        """
        await self._put("vm.snapshot", {"destination_url": f"file://{directory}"}, deadline_s)

    async def restore(self, order: Restore, *, deadline_s: float) -> None:
        """Make a machine from a snapshot, paused. Raises also: UnknownModeError."""
        answer = await self._send("vm.restore", order, deadline_s)
        if order.memory_restore_mode is not None and lacks_mode(answer.body):
            raise UnknownModeError(", ".join(parse_chain(answer.body)))
        _accepted("vm.restore", answer)

    async def receive(self, socket: str, *, deadline_s: float) -> None:
        """Make a machine from what a page server sends, once it connects to this socket."""
        order = {"receiver_url": f"unix:{socket}", "memory_mode": "Postcopy"}
        await self._put("vm.receive-migration", order, deadline_s)

    async def _get(self, action: str, deadline_s: float) -> bytes:
        answer = await self._http.call("GET", _ROOT + action, deadline_s=deadline_s)
        return _accepted(action, answer)

    async def _put(self, action: str, order: object, deadline_s: float) -> None:
        _accepted(action, await self._send(action, order, deadline_s))

    async def _send(self, action: str, order: object, deadline_s: float) -> Answer:
        body = None if order is None else msgspec.json.encode(order)
        return await self._http.call("PUT", _ROOT + action, body, deadline_s=deadline_s)


def _accepted(action: str, answer: Answer) -> bytes:
    """Only whether it succeeded is read from the code: what a failure is called differs."""
    if 200 <= answer.status < 300:
        return answer.body
    raise refusal(action, answer.status, parse_chain(answer.body))


def lacks_mode(body: bytes) -> bool:
    """Whether a refusal says that one of several words was none of those that are known."""
    return any("unknown variant" in link for link in parse_chain(body))


def parse_chain(body: bytes) -> list[str]:
    """The reasons in a refusal, from the widest to the innermost."""
    try:
        chain = msgspec.json.decode(body, type=list[str])
    except msgspec.MsgspecError:
        chain = [body.decode(errors="replace")]
    return [link.split(_TRACE)[0].strip()[:_SHOWN_CHARS] for link in chain]


_CPU_DIFFERS: Final = "CPUID compatib"


def refusal(action: str, status: int, chain: list[str]) -> SnapStartError:
    """The error for what the monitor refused."""
    message = f"the monitor refused {action} ({status}): {': '.join(chain)}"
    text = " ".join(chain)
    if _CPU_DIFFERS in text:
        return PermanentError(
            ErrorCode.TEMPLATE_INCOMPATIBLE,
            message,
            hint="this host's CPU lacks what the template's had: build it again on this node",
        )
    return host_lacks(text, message) or PeerError(ErrorCode.VMM_FAILED, message)


def _decoded(action: str, body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as exc:
        raise PeerError(
            ErrorCode.VMM_PROTOCOL, f"{action} was answered with {body[:200]!r}: {exc}"
        ) from exc
