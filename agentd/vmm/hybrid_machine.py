"""Own one machine whose guest channel is a hybrid vsock, whose memory a page server may bring."""

from __future__ import annotations

from pathlib import Path

from agentd.vmm.hybrid_vsock import GUEST_PORT, request
from agentd.vmm.launch import DIRECTORY
from agentd.vmm.machine import Machine
from agentd.vmm.paging import Recording, Served


class HybridMachine(Machine):
    """One running machine; `agentd.vmm.hybrid_vsock` says what its channel is."""

    channel_name: str
    _recording: Recording | None = None

    @property
    def channel_path(self) -> Path:
        """The socket of the guest channel."""
        return self.directory / self.channel_name

    @property
    def channel_prelude(self) -> bytes:
        """What a new connection to it begins with."""
        return request(GUEST_PORT)

    @property
    def directory(self) -> Path:
        """What belongs to the machine's user."""
        return self.record.run_dir / DIRECTORY

    def record_if_wanted(self, served: Served | None) -> None:
        """Own the recording of what it touches from now on, if that was planned."""
        self._recording = None if served is None else served.start_recording()

    async def kill(self) -> None:
        """As `Machine.kill`; a recording that is under way is ended first, within a second."""
        recording, self._recording = self._recording, None
        try:
            if recording is not None:
                await recording.finish()
        finally:
            await super().kill()

    def _close_files(self) -> None:
        super()._close_files()
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.cancel()
