"""Merge records into a working set, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agentd.errors import ErrorCode, PeerError, TransientError
from agentd.wire.pager import WorkingSetReport

# To read some records, write the content of a budget of pages.
MERGE_S: Final = 120.0
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_SHOWN: Final = 500


@dataclass(frozen=True)
class Merge:
    """What is merged. out: written whole, or not at all."""

    image: Path
    digest: str
    records: Sequence[Path]
    out: Path
    budget_pages: int

    def argv(self, binary: Path) -> list[str]:
        """The program with its arguments."""
        words = [str(binary), "working-set", "--image", str(self.image), "--digest", self.digest]
        words += ["--out", str(self.out), "--budget-pages", str(self.budget_pages)]
        return [*words, *map(str, self.records)]


async def run_merge(merge: Merge, binary: Path, *, deadline_s: float = MERGE_S) -> WorkingSetReport:
    """Write a working set.

    Raises: PeerError with the program's words if it refuses; TransientError at the deadline;
    OSError if it cannot be started. Cancellation, the deadline: kill it; there is no working set.
    """
    process = await _start(merge.argv(binary))
    try:
        async with asyncio.timeout(deadline_s):
            out, err = await process.communicate()
    except TimeoutError as exc:
        message = f"merging {len(merge.records)} records into {str(merge.out)!r}: not done in time"
        raise TransientError(ErrorCode.DEADLINE_EXCEEDED, message) from exc
    finally:
        await _end(process)
    return _report(merge, process.returncode, out, err.decode(errors="replace").strip())


async def _start(argv: Sequence[str]) -> asyncio.subprocess.Process:
    """Cancellation: what has been started by then is ended first."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd="/",
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await _end(await starting)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _report(merge: Merge, status: int | None, out: bytes, said: str) -> WorkingSetReport:
    what = f"merging {len(merge.records)} records into {str(merge.out)!r}"
    if status != 0:
        message = f"{what}: snap-pager ended with status {status}: {said[-_SHOWN:]}"
        raise PeerError(ErrorCode.VMM_FAILED, message)
    try:
        return msgspec.json.decode(out, type=WorkingSetReport)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        message = f"{what}: snap-pager said {out[:_SHOWN]!r} ({exc})"
        raise PeerError(ErrorCode.VMM_PROTOCOL, message) from exc
