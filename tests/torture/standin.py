"""Drive one stand-in machine: a process that touches memory and checks every byte of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

SAY_S: Final = 90.0


class Said(msgspec.Struct, frozen=True):
    """An answer of standin_vm: what its header says, absent counts are 0. wrong: bytes."""

    ok: bool
    message: str = ""
    ns: int = 0
    touches: int = 0
    writes: int = 0
    races: int = 0
    removals: int = 0
    removed_pages: int = 0
    pages: int = 0
    wrong: int = 0
    max_ns: int = 0
    max_remove_ns: int = 0
    rss_kb: int = 0
    pss_kb: int = 0
    private_dirty_kb: int = 0


class MachineLostError(Exception):
    """The machine ended, or does not go on."""


@dataclass(frozen=True)
class MachineOrder:
    """What a stand-in is started with. regions: sizes as its --regions has them."""

    socket: Path
    protocol: str
    image: Path
    regions: str
    seed: int = 1
    options: Sequence[str] = ()

    def argv(self, program: Path) -> list[str]:
        return [
            str(program), "--socket", str(self.socket), "--protocol", self.protocol,
            "--image", str(self.image), "--regions", self.regions, "--seed", str(self.seed),
            *self.options,
        ]  # fmt: skip


class StandIn:
    """One machine. Use `async with await StandIn.start(...)`: it is killed at the end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, program: Path, order: MachineOrder, *, log_file: Path, mark: str = ""
    ) -> StandIn:
        """log_file: for its stderr, appended to. mark: in its environment, as SNAP_TORTURE."""
        with log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *order.argv(program),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "SNAP_TORTURE": mark},
            )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def say(self, command: str, *, within_s: float = SAY_S) -> Said:
        """Raises: MachineLostError if it ends, or waits longer than a restart may take."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                self._process.stdin.write(f"{command}\n".encode())
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
        except TimeoutError as exc:
            raise MachineLostError(f"{command}: it waits for more than {within_s:g} s") from exc
        except ConnectionError as exc:
            raise MachineLostError(f"{command}: it has ended") from exc
        if not line.endswith(b"\n"):
            raise MachineLostError(f"{command}: it ended with status {await self.ended()}")
        return msgspec.json.decode(line, type=Said)

    async def quit(self) -> int:
        """Returns: its exit status."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(b"quit\n")
            await self._process.stdin.drain()
        return await self.ended()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> int:
        """Wait for its end. Returns: its exit status, negative for a signal."""
        return await self._process.wait()

    async def close(self) -> None:
        """End it. Idempotent."""
        assert self._process.stdin is not None
        self.kill()
        await self._process.wait()
        self._process.stdin.close()
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.wait_closed()

    async def __aenter__(self) -> StandIn:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
