"""Say what a clone finds in its directory, what its monitor is told; look whether it got it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from agentd.errors import ErrorCode, PeerError
from agentd.units import PAGE_BYTES
from agentd.vmm.cloud_hypervisor_api import Info, Restore
from agentd.vmm.cloud_hypervisor_config import (
    DIRECTORY_FD,
    MEMORY_FD,
    NO_CONSOLE,
    Clone,
    Config,
    clone_config,
    console_socket,
    inherited,
)
from agentd.vmm.cloud_hypervisor_offload import CONFIG_NAME, STATE_NAME, migration_config
from agentd.vmm.cloud_hypervisor_save import CONFIG, MEMORY, STATE
from agentd.vmm.cloud_hypervisor_snapshot import Snapshot
from agentd.vmm.cloud_hypervisor_versions import RestoreMode, Version, keeps_console

PAUSED: Final = "Paused"
_SOURCE: Final = f"file://{inherited(DIRECTORY_FD)}"


@dataclass(frozen=True)
class Plan:
    """One way to restore.

    files: name to content. links: name to target. config: of the clone. order: for vm.restore; None
    if a page server sends what it restores. sent: files for the page server.
    """

    mode: RestoreMode
    config: Config
    files: Mapping[str, bytes]
    links: Mapping[str, str] = field(default_factory=dict)
    order: Restore | None = None
    sent: Mapping[str, bytes] = field(default_factory=dict)


def plan_restore(snapshot: Snapshot, mode: RestoreMode, version: Version) -> Plan:
    """What a clone of a snapshot needs to be restored so.

    The template's memory is the descriptor that the clone inherits. Copied or mapped by the
    monitor, it is the snapshot's file of that name; as a zone's file it is the clone's memory, and
    the state says that there is none to be read.
    """
    serial = console_socket() if keeps_console(version) else NO_CONSOLE
    if mode is RestoreMode.OFFLOAD:
        config = clone_config(snapshot.config, Clone(serial, is_shared=True))
        sent = {CONFIG_NAME: migration_config(config, snapshot.state), STATE_NAME: snapshot.state}
        return Plan(mode, config, {}, sent=sent)
    if mode is RestoreMode.MAPPED:
        assert snapshot.mapped_state is not None
        config = clone_config(snapshot.config, Clone(serial, inherited(MEMORY_FD)))
        files = _files(config, snapshot.mapped_state)
        return Plan(mode, config, files, order=Restore(_SOURCE))
    config = clone_config(snapshot.config, Clone(serial))
    wish = None if mode is RestoreMode.COPY else mode.value
    links = {MEMORY: inherited(MEMORY_FD)}
    return Plan(mode, config, _files(config, snapshot.state), links, Restore(_SOURCE, wish))


def _files(config: Config, state: bytes) -> Mapping[str, bytes]:
    return {CONFIG: msgspec.json.encode(config), STATE: state}


def check_restored(info: Info, plan: Plan) -> None:
    """Make sure that a clone is what was planned: what a version does not know it ignores.

    Raises: PeerError.
    """
    if info.state != PAUSED:
        raise _differs(f"it is {info.state!r}, not {PAUSED!r}")
    planned, found = _zones(plan.config), _zones(info.config)
    if planned != found:
        raise _differs(f"its memory is {found}, not {planned}")


def _zones(config: Config) -> list[tuple[str, str, bool]]:
    """What matters of memory: the zone's name, its file, whether it is shared."""
    zones = config.get("memory", {}).get("zones") or []
    return [
        (zone.get("id", ""), zone.get("file") or "", bool(zone.get("shared"))) for zone in zones
    ]


def _differs(how: str) -> PeerError:
    message = f"the monitor restored another machine than it was told: {how}"
    return PeerError(ErrorCode.VMM_PROTOCOL, message)


def private_bytes(pid: int) -> int:
    """What a process has for itself: resident, of no file (proc(5), statm). Raises: OSError."""
    words = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(words[1]) - int(words[2])) * PAGE_BYTES
