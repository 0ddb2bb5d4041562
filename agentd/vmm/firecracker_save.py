"""Take over what Firecracker saved of a machine."""

from __future__ import annotations

import os

from agentd import native
from agentd.errors import ErrorCode, PeerError
from agentd.store.memfd import create_memfd, seal_memfd
from agentd.units import MIB
from agentd.vmm.firecracker_machine import SaveFiles

_STATE_MAX_BYTES = 10_000_000  # it loads no longer one (src/vmm/src/persist.rs of Firecracker)


def take_over(saves: SaveFiles, vm_id: str, *, deadline_ns: int, cancel_fd: int) -> tuple[int, int]:
    """Seal a machine's memory and state; blocks. Its monitor has ended, so nobody else has them.

    The monitor wrote every page, zeros too: what is kept is a copy without those.
    Returns: memory, state; owned by the caller, as `saves` still is. Raises: PeerError if they are
    not whole; OSError.
    """
    memory_bytes = saves.shape.memory_mib * MIB
    _check(memory_bytes, os.fstat(saves.memory_fd).st_size, os.fstat(saves.state_fd).st_size)
    memory_fd = create_memfd(f"{vm_id}-memory")
    try:
        native.copy_memory(
            saves.memory_fd, memory_fd, memory_bytes, deadline_ns=deadline_ns, cancel_fd=cancel_fd
        )
        seal_memfd(memory_fd)
        seal_memfd(saves.state_fd)
        return memory_fd, os.dup(saves.state_fd)
    except BaseException:
        os.close(memory_fd)
        raise


def _check(expected_bytes: int, memory_bytes: int, state_bytes: int) -> None:
    if memory_bytes != expected_bytes or not 0 < state_bytes <= _STATE_MAX_BYTES:
        raise PeerError(
            ErrorCode.VMM_PROTOCOL,
            f"the monitor saved {memory_bytes} bytes of memory, where {expected_bytes} are due, "
            f"and {state_bytes} bytes of state",
        )
