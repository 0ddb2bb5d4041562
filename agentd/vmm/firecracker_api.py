"""Call Firecracker over its HTTP socket (firecracker.yaml in the swagger of Firecracker)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    PermanentError,
    SnapStartError,
)
from agentd.vmm import firecracker_versions as versions
from agentd.vmm.firecracker_versions import Version
from agentd.vmm.host_lacks import host_lacks
from agentd.vmm.http_socket import HttpSocket

_SHOWN_CHARS: Final = 2000

T = TypeVar("T")


class Instance(msgspec.Struct, frozen=True):
    """Who answers. state: "Not started", "Running" or "Paused"."""

    state: str
    vmm_version: str


class MemoryBackend(msgspec.Struct, frozen=True):
    """Where guest memory comes from: a file, or who listens on a socket."""

    backend_type: Literal["File", "Uffd"]
    backend_path: str


class NetworkOverride(msgspec.Struct, frozen=True):
    """The tap of a clone, in place of the one that was saved."""

    iface_id: str
    host_dev_name: str


class VsockOverride(msgspec.Struct, frozen=True):
    """The socket of a clone's vsock, in place of the one that was saved."""

    uds_path: str


class Load(msgspec.Struct, frozen=True, omit_defaults=True):
    """A snapshot to load. What is not asked for is not sent: older versions refuse what they do not
    know. clock_realtime: the guest's clock goes on from now, not from when it was saved.
    """

    snapshot_path: str
    mem_backend: MemoryBackend
    resume_vm: bool = False
    network_overrides: tuple[NetworkOverride, ...] = ()
    vsock_override: VsockOverride | None = None
    clock_realtime: bool = False


class _Fault(msgspec.Struct, frozen=True):
    fault_message: str


class Api:
    """One monitor's interface. It serves one call after the other. The owner must `close` it.

    Every call raises PeerError when the monitor refuses, hangs up or speaks another language;
    TransientError when the host has no room for what it was told to do, or at the deadline.
    """

    def __init__(self, path: Path) -> None:
        self._http = HttpSocket(path)

    async def close(self) -> None:
        """Give back what it holds. Idempotent."""
        await self._http.close()

    async def describe(self, *, deadline_s: float) -> Instance:
        """Who it is, and what its machine does."""
        answer = await self._http.call("GET", "/", deadline_s=deadline_s)
        return _decoded("GET /", _accepted("GET /", answer.status, answer.body), Instance)

    async def configure(self, what: str, order: dict[str, Any], *, deadline_s: float) -> None:
        """Describe one part of a machine. what: machine-config, boot-source, vsock."""
        await self._send("PUT", f"/{what}", order, deadline_s)

    async def start(self, *, deadline_s: float) -> None:
        """Boot the machine that was described."""
        await self._send("PUT", "/actions", {"action_type": "InstanceStart"}, deadline_s)

    async def pause(self, *, deadline_s: float) -> None:
        """Stop the guest. Idempotent."""
        await self._send("PATCH", "/vm", {"state": "Paused"}, deadline_s)

    async def resume(self, *, deadline_s: float) -> None:
        """Let the guest go on. Idempotent."""
        await self._send("PATCH", "/vm", {"state": "Resumed"}, deadline_s)

    async def save(self, state_path: str, memory_path: str, *, deadline_s: float) -> None:
        """Write a paused machine into two files.

        They are whole once this has returned: the memory's has its length from the beginning.
        """
        order = {
            "snapshot_type": "Full",
            "snapshot_path": state_path,
            "mem_file_path": memory_path,
        }
        await self._send("PUT", "/snapshot/create", order, deadline_s)

    async def load(self, order: Load, *, deadline_s: float) -> None:
        """Make a machine from a snapshot. After any failure the monitor is used up, and ends.

        Raises also: PermanentError when the snapshot is damaged, or of a format it does not load.
        """
        await self._send("PUT", "/snapshot/load", order, deadline_s)

    async def _send(self, method: str, path: str, order: object, deadline_s: float) -> None:
        body = msgspec.json.encode(order)
        answer = await self._http.call(method, path, body, deadline_s=deadline_s)
        _accepted(f"{method} {path}", answer.status, answer.body)


def check_supported(order: Load, version: Version) -> None:
    """Raises: ConfigError for an order that this version would refuse, and end."""
    wishes = {
        "another tap (network_overrides)": (
            bool(order.network_overrides),
            versions.has_network_overrides,
        ),
        "another vsock socket (vsock_override)": (
            order.vsock_override is not None,
            versions.has_vsock_override,
        ),
        "a clock that catches up (clock_realtime)": (
            order.clock_realtime,
            versions.has_clock_realtime,
        ),
    }
    lacking = [wish for wish, (is_asked, can) in wishes.items() if is_asked and not can(version)]
    if lacking:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"loading a snapshot with {', '.join(lacking)}: Firecracker {version} cannot",
            hint="install a newer Firecracker",
        )


def _accepted(action: str, status: int, body: bytes) -> bytes:
    if status in (200, 204):
        return body
    raise refusal(action, status, parse_fault(body))


def parse_fault(body: bytes) -> str:
    """Why it refused."""
    try:
        return msgspec.json.decode(body, type=_Fault).fault_message[:_SHOWN_CHARS]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body[:_SHOWN_CHARS].decode(errors="replace")


# Of src/vmm/src/snapshot/mod.rs of Firecracker, SnapshotError.
_SPOILT: Final = {
    "CRC64 validation failed": ErrorCode.TEMPLATE_CORRUPT,
    "error occurred during bitcode": ErrorCode.TEMPLATE_CORRUPT,
    "Invalid data version": ErrorCode.TEMPLATE_INCOMPATIBLE,
    "Magic value does not match": ErrorCode.TEMPLATE_INCOMPATIBLE,
}


def refusal(action: str, status: int, fault: str) -> SnapStartError:
    """The error for what the monitor refused."""
    message = f"the monitor refused {action} ({status}): {fault}"
    if (lack := host_lacks(fault, message)) is not None:
        return lack
    for mark, code in _SPOILT.items():
        if mark in fault:
            return PermanentError(code, message, hint="build the template again on this node")
    return PeerError(ErrorCode.VMM_FAILED, message)


def _decoded(action: str, body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise PeerError(
            ErrorCode.VMM_PROTOCOL, f"{action} was answered with {body[:200]!r}: {exc}"
        ) from exc
