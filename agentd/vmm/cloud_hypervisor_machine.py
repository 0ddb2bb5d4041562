"""Own one machine of Cloud Hypervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

from agentd.errors import InvariantError
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.cloud_hypervisor_config import CHANNEL_NAME, CONSOLE_NAME
from agentd.vmm.cloud_hypervisor_launch import API_SOCKET
from agentd.vmm.http_socket import pin, pinned_path
from agentd.vmm.hybrid_machine import HybridMachine
from agentd.vmm.machine import ConsoleLog
from agentd.vmm.vmm import VmRecord
from agentd.wire.manifest import Machine as Shape

_TAIL_BYTES: Final = 4096
_READ_BYTES: Final = 65536
_QUIET_S: Final = 0.05  # what was kept for whoever connects comes at once


class CloudMachine(HybridMachine):
    """One running machine. Implements `agentd.vmm.vmm.Vm`.

    shape: of a machine that was booted, so that it can be saved.
    """

    channel_name = CHANNEL_NAME

    def __init__(
        self,
        record: VmRecord,
        pidfd: int,
        *,
        is_child: bool,
        cgroups: CgroupTree,
        shape: Shape | None = None,
        console: ConsoleLog | None = None,
    ) -> None:
        super().__init__(record, pidfd, is_child=is_child, cgroups=cgroups, console=console)
        self._shape = shape
        self._booted_console = console
        self._said = b""

    @property
    def api_path(self) -> Path:
        """The socket of the monitor's interface."""
        return self.record.run_dir / API_SOCKET

    def take_shape(self) -> Shape:
        """What it was booted as. Raises: InvariantError for a clone, and the second time."""
        shape, self._shape = self._shape, None
        if shape is None:
            raise InvariantError(f"{self!r} was not booted to be saved")
        return shape

    def booted_tail(self) -> str:
        """What a machine that was booted wrote last; empty for a clone."""
        return "" if self._booted_console is None else self._booted_console.tail()

    async def console_tail(self, *, deadline_s: float) -> str:
        """The last text on the guest's console, at most 4 KiB; empty when there is none.

        Of a clone the monitor gives each byte once, so what it gave is kept here.
        """
        if self._booted_console is not None:
            return self.booted_tail()
        said = await read_console(self.directory / CONSOLE_NAME, deadline_s=deadline_s)
        self._said = (self._said + said)[-_TAIL_BYTES:]
        return self._said.decode(errors="replace")


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Without following a link that the machine's user may have put there."""
    fd = pin(path)
    try:
        return await asyncio.open_unix_connection(pinned_path(fd))
    finally:
        os.close(fd)


async def read_console(path: Path, *, deadline_s: float) -> bytes:
    """The last of what was kept on a console since it was read; empty if it cannot be asked."""
    said = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(deadline_s):
            reader, writer = await _connect(path)
            try:
                while data := await asyncio.wait_for(reader.read(_READ_BYTES), _QUIET_S):
                    said = (said + data)[-_TAIL_BYTES:]
            finally:
                writer.transport.abort()
    return said
