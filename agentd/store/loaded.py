"""Hold one verified template in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

from agentd.store.read_ahead import Reading
from agentd.wire.manifest import Manifest


@dataclass(frozen=True)
class LoadedTemplate:
    """A template that was read, verified, sealed in memory; ready to be forked.

    memory_fd, state_fd: fully sealed memfds, owned by this object until `close`. reading: of its
    memory from disk, None of one that was just built.
    """

    manifest: Manifest
    memory_fd: int
    state_fd: int
    reading: Reading | None = None

    def close(self) -> None:
        """Give the memory back once the last fork that maps it is gone. Call it once."""
        os.close(self.memory_fd)
        os.close(self.state_fd)
