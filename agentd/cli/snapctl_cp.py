"""The `snapctl session cp` command."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import click

from agentd.cli.settings import Settings, common_options, pass_settings
from agentd.client import calls
from agentd.client.transport import Transport


@click.command(
    epilog="\b\nExample:\n  snapctl session cp data.csv ID:\n"
    "  snapctl session cp ID:plot.png .\n  snapctl session cp ID:log.txt -\n"
)
@click.argument("source")
@click.argument("target")
@common_options
@pass_settings
def cp(settings: Settings, source: str, target: str) -> None:
    """Copy a file into a session or out of it; the session's side is ID:PATH, - is a stream."""
    inside, outside = _split(source), _split(target)
    if (inside is None) == (outside is None):
        raise click.UsageError("exactly one of SOURCE and TARGET must be ID:PATH")
    with settings.transport() as transport:
        if outside is not None:
            path, size = _copy_in(transport, source, *outside)
        else:
            path, size = _copy_out(transport, *cast("tuple[str, str]", inside), target, settings)
    settings.show({"source": source, "target": path, "size": size})


def _split(place: str) -> tuple[str, str] | None:
    # A slash before the colon makes it a local path, as scp has it.
    head, colon, path = place.partition(":")
    return (head, path) if colon and head and "/" not in head else None


def _copy_in(transport: Transport, source: str, session_id: str, path: str) -> tuple[str, int]:
    if source == "-":
        if not path or path.endswith("/"):
            raise click.UsageError("copying from stdin needs a file name after ID:")
        raw = sys.stdin.buffer.read()
        transport.send(calls.write_file(session_id, path, raw))
        return f"{session_id}:{path}", len(raw)
    if not path or path.endswith("/"):
        path += Path(source).name
    with Path(source).open("rb") as file:
        transport.send(calls.write_file(session_id, path, file))
        return f"{session_id}:{path}", file.tell()


def _copy_out(
    transport: Transport, session_id: str, path: str, target: str, settings: Settings
) -> tuple[str, int]:
    if target == "-":
        if settings.as_json:
            raise click.UsageError("--json and copying to stdout exclude each other")
        return target, _pour(transport, session_id, path, sys.stdout.buffer)
    goal = Path(target)
    if goal.is_dir():
        goal /= Path(path).name
    return str(goal), _replace(transport, session_id, path, goal)


def _replace(transport: Transport, session_id: str, path: str, goal: Path) -> int:
    # Written beside and renamed, so that a broken copy never looks like a whole one.
    with tempfile.NamedTemporaryFile(dir=goal.parent, prefix=".snapctl-", delete=False) as file:
        try:
            size = _pour(transport, session_id, path, cast("BinaryIO", file))
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), 0o666 & ~umask)
            file.close()
            Path(file.name).replace(goal)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return size


def _pour(transport: Transport, session_id: str, path: str, out: BinaryIO) -> int:
    size = 0
    with transport.stream(calls.read_file(session_id, path)) as pieces:
        for piece in pieces:
            out.write(piece)
            size += len(piece)
    out.flush()
    return size
