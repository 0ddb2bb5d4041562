"""Have a page server fill the memory of a clone (docs/snapshot_restore.md of Cloud Hypervisor).

The monitor is told to receive a migration, and listens. The page server calls it, gives it empty
memory, the machine's description, its state, then fills pages when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from agentd.vmm.cloud_hypervisor_snapshot import SnapshotDamagedError

SOCKET_NAME: Final = "offload.sock"
CONFIG_NAME: Final = "migration.json"
STATE_NAME: Final = "migration-state.json"


@dataclass(frozen=True)
class Offer:
    """A machine to be filled.

    template_id: what recordings of its memory are tied to. socket: where its monitor is about to
    listen. image: of its memory. config, state: files with what is to be sent. uid: of the monitor.
    """

    vm_id: str
    template_id: str
    socket: Path
    image: Path
    config: Path
    state: Path
    uid: int


class OffloadServer(Protocol):
    """The node's page server, as far as Cloud Hypervisor is concerned."""

    async def offer(self, offer: Offer) -> None:
        """Have it call the monitor, which may begin to listen a little later, and end with a
        machine that is paused. After any failure, and cancellation: `forget` the machine.
        """

    async def forget(self, vm_id: str) -> None:
        """The machine has ended, or will not come. Idempotent."""


def migration_config(config: dict[str, Any], state: bytes) -> bytes:
    """What a migration says of a machine, from what a snapshot does.

    Args: config: of the clone. Raises: SnapshotDamagedError.
    """
    try:
        tree = msgspec.json.decode(state, type=dict[str, Any])
        vm = msgspec.json.decode(tree["snapshot_data"]["state"], type=dict[str, Any])
        memory = tree["snapshots"]["memory-manager"]["snapshot_data"]["state"]
        body = {
            "vm_config": config,
            "common_cpuid": vm["common_cpuid"],
            "memory_manager_data": msgspec.Raw(memory.encode()),
        }
        return msgspec.json.encode(body)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as exc:
        raise SnapshotDamagedError(f"state.json does not say what a clone needs: {exc}") from exc
