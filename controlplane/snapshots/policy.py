"""Define the numbers that the snapshot controller goes by."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

# Nobody else can restore what these made: without a living agent their artifacts are of no use.
# A provider that is not named here restores by itself, in its own sandboxer.
_RESTORED_BY_AGENT: Final = frozenset(
    {
        "snapstart.qemu.org",
        "snapstart.firecracker-microvm.io",
        "snapstart.cloudhypervisor.org",
    }
)


def is_restored_by_agent(provider_name: str) -> bool:
    """Its artifacts can be restored by agentd alone."""
    return provider_name in _RESTORED_BY_AGENT


@dataclass(frozen=True)
class Policy:
    """How long, how often. Times are in seconds."""

    # A node's build is tried so often in a row, then once more after `reopen_s`.
    attempts: int = 3
    # Delay before the second attempt; doubles with each failure.
    retry_s: float = 10.0
    reopen_s: float = 1800.0
    # From the record of an attempt to its end: above the agent's own 10 min for one create.
    build_s: float = 900.0
    # After that agent-sandbox removes a build Sandbox by itself, whatever became of this program.
    build_expiry_s: float = 1800.0
    # A finished task stays so long for people to look at.
    retention_s: float = 60.0
    # A node may be NotReady so long before its artifacts stop counting.
    node_grace_s: float = 60.0
    # Sessions made with a retired key can still start.
    retired_grace_s: float = 900.0
    # The same when the snapshot itself goes: the longest wait for a session to start (2 min).
    deletion_grace_s: float = 120.0
    # A snapshot's deletion waits no longer than that for nodes: the longest life of a start.
    deletion_s: float = 1800.0
    # "In use" or a failing provider: ask again to delete.
    delete_retry_s: float = 300.0
    # After its first Ready artifact a replacement takes over even if nodes are missing.
    promotion_s: float = 600.0
    # A replacement without any Ready artifact is given up: above `attempts` times `build_s`.
    pending_s: float = 3600.0
    # After a replacement was given up.
    rebuild_retry_s: float = 1800.0
    # After a write, when more is to be done: informers have seen it by then.
    again_s: float = 1.0
    recheck_problem_s: float = 30.0
    recheck_source_s: float = 60.0
    recheck_unready_s: float = 15.0
    # Nothing tells that a store lost its data: one read of each snapshot's record.
    recheck_store_s: float = 600.0
    # Bytes of UTF-8 and nodes that a status message holds at most.
    message_bytes: int = 1024
    message_nodes: int = 10
    # Objects made or deleted by one plan; the next plan goes on.
    orders_per_plan: int = 200
    # Annotations of a source's pod template that may reach a build Pod, by prefix; labels all may.
    build_annotation_prefixes: tuple[str, ...] = ()

    # Tasks and build Pods name the span that they are part of.
    is_traced: bool = False

    def retry_delay(self, failures: int) -> timedelta:
        """Until the next attempt after so many failures in a row."""
        if failures >= self.attempts:
            return timedelta(seconds=self.reopen_s)
        return timedelta(seconds=self.retry_s * 2 ** (failures - 1))
