"""Have a page server fill the memory of a clone (docs/snapshot_restore.md of Cloud Hypervisor).

The monitor is told to receive a migration, and listens. The page server calls it, gives it empty
memory, the machine's description, its state, then fills pages when they are asked for.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agentd.pager.working_sets import ForkPages, Source
from agentd.vmm.cloud_hypervisor_config import MEMORY_FD
from agentd.vmm.cloud_hypervisor_launch import CloudLaunch
from agentd.vmm.cloud_hypervisor_snapshot import SnapshotDamagedError
from agentd.vmm.launch import DIRECTORY
from agentd.wire.pager import OffloadRestore

SOCKET_NAME: Final = "offload.sock"
# In the run directory, which the machine's user cannot reach.
CONFIG_NAME: Final = "migration.json"
STATE_NAME: Final = "migration-state.json"


def offload_order(
    launch: CloudLaunch, source: Source, pages: ForkPages, pid: int
) -> OffloadRestore:
    """What the page server is told of a clone.

    One that is recorded is not filled beyond what it touches, and needs the page server for as long
    as it lives. pid: of the clone, which keeps the image open.
    """
    return OffloadRestore(
        vm=launch.vm_id,
        socket=str(launch.run_dir / DIRECTORY / SOCKET_NAME),
        image=f"/proc/{pid}/fd/{MEMORY_FD}",
        config=str(launch.run_dir / CONFIG_NAME),
        state=str(launch.run_dir / STATE_NAME),
        digest=source.digest,
        working_set=pages.working_set,
        record=pages.record,
        uid=launch.uid,
        demand_only=bool(pages.record),
    )


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
