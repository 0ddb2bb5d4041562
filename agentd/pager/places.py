"""Decide where the page server's program and files are."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TMPFS: Final = "tmpfs"
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class KuasarPlace:
    """Where a Kuasar sandboxer's hypervisor hands memory over.

    directory: of its sandboxes. sets: for the page server's own files. records: machines of an
    image that are recorded. set_mib: of a working set at most.
    """

    socket: Path
    directory: Path
    sets: Path
    records: int
    set_mib: int

    def argv(self) -> list[str]:
        """Its part of the arguments."""
        words = ["--kuasar-socket", str(self.socket), "--kuasar-directory", str(self.directory)]
        words += ["--kuasar-sets", str(self.sets), "--kuasar-records", str(self.records)]
        return [*words, "--kuasar-set-mib", str(self.set_mib)]


@dataclass(frozen=True)
class PagerPlace:
    """What `snap-pager serve` is told."""

    binary: Path
    control_socket: Path
    journal_dir: Path
    hand_over_s: float
    readers: int
    kuasar: KuasarPlace | None = None

    def argv(self, command: str) -> list[str]:
        """The program with its arguments. command: serve, supervise."""
        words = [str(self.binary), command, "--control", str(self.control_socket)]
        words += ["--journal", str(self.journal_dir), "--readers", str(self.readers)]
        words += ["--hand-over-s", f"{self.hand_over_s:g}"]
        return words + self.kuasar.argv() if self.kuasar else words


def own_binary() -> Path:
    """The snap-pager that was built with this package."""
    return Path(__file__).parents[1] / "snap-pager"


def choose_journal_dir(control_socket: Path, run_dir: Path, mountinfo: str) -> Path:
    """Where the journal is if nobody says: in the run directory if that is on a tmpfs, else in
    /dev/shm, under a name that another installation does not choose.

    mountinfo: of proc(5).
    """
    if filesystem_of(run_dir, mountinfo) == TMPFS:
        return run_dir / "pager"
    digest = hashlib.sha256(os.fsencode(control_socket)).hexdigest()[:12]
    return Path(f"/dev/shm/snapstart-pager-{digest}")


def filesystem_of(path: Path, mountinfo: str) -> str:
    """The kind of file system that an absolute path would be on; empty if that is not known."""
    place, found, longest = os.path.normpath(path), "", -1
    for mount_point, kind in _mounts(mountinfo):
        # Of two mounts on one point the later one covers the other.
        if _is_below(place, mount_point) and len(mount_point) >= longest:
            found, longest = kind, len(mount_point)
    return found


def _is_below(place: str, mount_point: str) -> bool:
    return place == mount_point or place.startswith(mount_point.rstrip("/") + "/")


def _mounts(mountinfo: str) -> Iterator[tuple[str, str]]:
    """Mount point and kind of each line, the first fields and those after the hyphen."""
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, kinds = head.split(" "), tail.split(" ")
        if len(fields) > 4 and kinds[0]:
            yield _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4]), kinds[0]
