"""What the contract asks of a provider, beside its driver."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from agentd.providers.driver import CreateRequest, SnapshotDriver, SnapshotOwner
from controlplane.api.types import SnapshotMode

OWNER = SnapshotOwner("cluster", "team", "python", "snap-uid")
HASH = "sha256:" + "5" * 64


@dataclass(frozen=True)
class Build:
    """A Pod that waits to be snapshotted."""

    uid: str
    name: str

    def request(
        self,
        key: str,
        *,
        snapshot_hash: str = HASH,
        mode: SnapshotMode = SnapshotMode.FORK,
        owner: SnapshotOwner = OWNER,
    ) -> CreateRequest:
        """To make its snapshot an artifact."""
        return CreateRequest(self.uid, owner.namespace, self.name, key, snapshot_hash, mode, owner)


class DriverWorld(Protocol):
    """One provider on one node, as somebody sees it who can do more than its driver."""

    @property
    def driver(self) -> SnapshotDriver:
        """Of the agent that runs now."""

    async def start_build(self) -> Build:
        """Start a Pod and wait until it can be snapshotted."""

    async def start_session(self, key: str) -> None:
        """Restore an artifact, and let what was restored run."""

    async def end_sessions(self) -> None:
        """End all of them."""

    async def end_builds(self) -> None:
        """End the Pods that were not used up, as the controller does."""

    async def make_unordered(self, key: str) -> None:
        """Somebody at the node makes a snapshot of that name."""

    async def take_away(self, key: str) -> None:
        """Somebody, or the provider itself, removes an artifact."""

    async def restart_agent(self) -> None:
        """`driver` is a successor's from here on, who knows what is on disk."""

    def away(self) -> AbstractAsyncContextManager[None]:
        """The provider cannot be asked while the block runs."""

    def held(self) -> Mapping[str, int]:
        """How many snapshots the provider itself has, by key."""

    def left_over(self) -> list[str]:
        """Whatever has not come to its end: guests that stay paused, builds, tasks."""
