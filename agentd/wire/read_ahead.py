"""Define the list of pages that a template's forks touch first.

A hint: it decides what is read early, never what is read. A wrong one costs time, so the file has
no checksum; what it says is still bounded before it is used.
"""

from __future__ import annotations

from typing import Final

import msgspec

FORMAT_VERSION: Final = 1
MAX_BYTES: Final = 8 * 1024 * 1024  # some 400,000 runs


class PageRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Pages that follow each other in the memory image."""

    first: int
    pages: int

    @property
    def end(self) -> int:
        """The first page behind it."""
        return self.first + self.pages


class ReadAhead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is read ahead of a template.

    template_id, size_bytes: of the memory that the pages are of. forks: how many were recorded.
    runs: ascending, apart.
    """

    format_version: int
    template_id: str
    size_bytes: int
    forks: int
    runs: tuple[PageRun, ...]


class ReadAheadDamagedError(ValueError):
    """The bytes are not what `encode` writes."""


def encode(read_ahead: ReadAhead) -> bytes:
    """Write a list: the text of `read_ahead.json`."""
    return msgspec.json.encode(read_ahead) + b"\n"


def decode(data: bytes) -> ReadAhead:
    """Read the text of `read_ahead.json`. Raises: ReadAheadDamagedError."""
    try:
        read_ahead = msgspec.json.decode(data, type=ReadAhead)
    except msgspec.MsgspecError as exc:
        raise ReadAheadDamagedError(str(exc)) from exc
    if read_ahead.format_version != FORMAT_VERSION:
        raise ReadAheadDamagedError(
            f"format {read_ahead.format_version}, this program reads format {FORMAT_VERSION}"
        )
    end = 0
    for run in read_ahead.runs:
        if run.first < end or run.pages <= 0:
            raise ReadAheadDamagedError(f"the run of {run.pages} pages at {run.first} is misplaced")
        end = run.end
    return read_ahead
