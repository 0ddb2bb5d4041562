"""Decide where a fork's memory comes from.

Firecracker maps a file privately, or hands a userfaultfd to whoever listens on a socket
(docs/snapshotting/handling-page-faults-on-snapshot-resume.md of Firecracker). docs/memory.md has
the measured costs of both.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

# Below it the faults that were not foreseen cost more than the installed pages save, as long as the
# kernel finds both in memory.
_LOW_RECALL: Final = 0.8
# native/pager/working_set_file.h
_SET_HEAD: Final = struct.Struct("<8sIxxxx32xQQQQQ")
_SET_MAGIC: Final = b"SNAPWSET"
_SET_VERSION: Final = 1
_RECALL_SCALE: Final = 1_000_000
_RECALL_UNKNOWN: Final = 2**64 - 1


@dataclass(frozen=True)
class MemoryFacts:
    """What decides.

    has_server: there is a page server. can_fault: machines may make a userfaultfd. is_recorded:
    what this fork touches is to be written down. has_set: there is a working set; recall: of what a
    fork touched, the share that it has, None if that is not known. is_warm: the image is in memory.
    """

    has_server: bool
    can_fault: bool
    is_recorded: bool
    has_set: bool
    recall: float | None
    is_warm: bool


@dataclass(frozen=True)
class Choice:
    """A memory back end, and what decided it, for the log."""

    backend: Literal["File", "Uffd"]
    why: str


def choose_backend(facts: MemoryFacts) -> Choice:
    """The faster way to the same memory."""
    if not facts.has_server:
        return Choice("File", "there is no page server")
    if not facts.can_fault:
        return Choice("File", "machines may not make a userfaultfd on this host")
    if facts.is_recorded:
        return Choice("Uffd", "what it touches is recorded")
    if not facts.has_set:
        return Choice("File", "nothing was recorded of this image")
    if facts.is_warm and facts.recall is not None and facts.recall < _LOW_RECALL:
        return Choice("File", "the image is in memory, and much of what forks touch not recorded")
    return Choice("Uffd", "the working set is installed before the guest resumes")


def parse_recall(head: bytes) -> float | None:
    """Of the beginning of a working set's file; None if it does not say."""
    if len(head) < _SET_HEAD.size:
        return None
    magic, version, _image_bytes, _runs, _pages, _data, recall = _SET_HEAD.unpack_from(head)
    if (magic, version) != (_SET_MAGIC, _SET_VERSION) or recall == _RECALL_UNKNOWN:
        return None
    return int(recall) / _RECALL_SCALE


def read_recall(path: str) -> float | None:
    """As `parse_recall`, of a file; None if there is none."""
    if not path:
        return None
    try:
        with Path(path).open("rb") as file:
            return parse_recall(file.read(_SET_HEAD.size))
    except OSError:
        return None
