"""The stand-in for a page server (`tests.fakes.pager`) as a program.

    pager_process.py HOW supervise --control PATH --journal DIR ...

HOW: `serve` answers until SIGTERM, `late` begins to after a moment, `exit` says why and ends,
`mute` never answers.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from tests.fakes.pager import FakePager

ROOT = Path(__file__).parents[2]


def write_program(path: Path, how: str) -> Path:
    """An executable of this stand-in, which looks like snap-pager among the processes."""
    # By its name alone the interpreter would not find its library.
    path.write_text(
        f"#!/bin/bash\nexport PYTHONPATH={ROOT} PYTHONHOME={sys.base_prefix}\n"
        f'exec -a snap-pager {sys.executable} {__file__} {how} "$@"\n'
    )
    path.chmod(0o755)
    return path


async def serve(control: Path, wait_s: float) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.sleep(wait_s)
    async with FakePager(control.parent).serving():
        await stop.wait()


def main() -> None:
    how, _command, *words = sys.argv[1:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    print(f'{{"event":"fake.started","how":"{how}"}}', file=sys.stderr, flush=True)
    if how == "exit":
        print('{"event":"journal.refused","why":"not on tmpfs"}', file=sys.stderr, flush=True)
        sys.exit(3)
    if how == "mute":
        signal.pause()
    asyncio.run(serve(Path(options["--control"]), 0.3 if how == "late" else 0.0))


if __name__ == "__main__":
    main()
