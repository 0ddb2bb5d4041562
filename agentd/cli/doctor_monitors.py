"""Judge monitors by their versions: what is known to be wrong with which, in one table."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentd.cli.doctor_checks import Check, Host, Level

Version = tuple[int, int, int]
_ASK_S: Final = 10.0


@dataclass(frozen=True)
class Known:
    """What is wrong with versions from `since` to before `until`; FAIL: it is not used."""

    since: Version
    until: Version
    level: Level
    why: str
    hint: str


@dataclass(frozen=True)
class Monitor:
    """name: of the check. kind: the setting `monitor.kind`. banner: how its version begins."""

    name: str
    kind: str
    banner: str
    install: str
    known: tuple[Known, ...]


QEMU: Final = Monitor(
    "qemu",
    "qemu",
    "QEMU emulator version",
    "apt-get install qemu-system-x86",
    (
        Known(
            (0, 0, 0),
            (7, 2, 0),
            Level.FAIL,
            "has no machine type pc-i440fx-7.2, on which templates are frozen",
            "use QEMU 7.2 or newer",
        ),
    ),
)
FIRECRACKER: Final = Monitor(
    "firecracker",
    "firecracker",
    "Firecracker",
    "install Firecracker 1.16.1 or newer",
    (
        Known(
            (0, 0, 0),
            (1, 8, 0),
            Level.FAIL,
            "a stock kernel does not find its devices by ACPI",
            "use Firecracker 1.16.1 or newer",
        ),
        Known(
            (1, 8, 0),
            (1, 11, 0),
            Level.WARN,
            "does not tell a page server of pages that guests give back",
            "use 1.11 or newer with a page server",
        ),
        Known(
            (1, 8, 0),
            (1, 12, 0),
            Level.WARN,
            "closes its socket to the page server at once, so the end of a machine is told late",
            "use 1.12 or newer with a page server",
        ),
        Known(
            (1, 16, 0),
            (1, 16, 1),
            Level.WARN,
            "a guest's connections can time out after a restore",
            "use 1.16.1",
        ),
    ),
)
CLOUD_HYPERVISOR: Final = Monitor(
    "cloud-hypervisor",
    "cloud-hypervisor",
    "cloud-hypervisor",
    "install Cloud Hypervisor v53 or newer",
    (
        Known(
            (0, 0, 0),
            (48, 0, 0),
            Level.FAIL,
            "its interface for snapshots is another one",
            "use v53 or newer",
        ),
        Known(
            (48, 0, 0),
            (52, 0, 0),
            Level.WARN,
            "the first connection to a guest can hang after a restore",
            "use v53 or newer",
        ),
        Known(
            (52, 0, 0),
            (53, 0, 0),
            Level.WARN,
            "keeps private memory in a file of its own, which takes more",
            "use v53 or newer",
        ),
    ),
)
MONITORS: Final = (QEMU, FIRECRACKER, CLOUD_HYPERVISOR)


@dataclass(frozen=True)
class MonitorFacts:
    """path: None if it is not there. said: to --version. error: why it said nothing."""

    path: str | None
    said: str = ""
    error: str = ""


def gather_monitor(host: Host, binary: str, ask_s: float = _ASK_S) -> MonitorFacts:
    """Find a program by its name or path, ask it for its version."""
    path = shutil.which(binary, path=host.environ.get("PATH"))
    if path is None:
        return MonitorFacts(None)
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=ask_s, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as exc:
        return MonitorFacts(path, error=str(exc))
    return MonitorFacts(path, done.stdout.partition("\n")[0])


def judge_monitor(monitor: Monitor, facts: MonitorFacts, *, is_chosen: bool) -> Check:
    """is_chosen: by `monitor.kind`; others may be absent, or old."""
    if facts.path is None:
        level = Level.FAIL if is_chosen else Level.SKIP
        return Check(monitor.name, level, f"{monitor.kind} is not in PATH", monitor.install)
    if facts.error:
        level = Level.FAIL if is_chosen else Level.WARN
        return Check(
            monitor.name, level, f"{facts.path} does not run: {facts.error}", monitor.install
        )
    version = parse_version(monitor, facts.said)
    if version is None:
        level = Level.FAIL if is_chosen else Level.WARN
        detail = f"{facts.path} answers {facts.said[:80]!r}"
        return Check(monitor.name, level, detail, f"that is no {monitor.kind}: set its path")
    return _judge_version(monitor, f"{facts.path}: {facts.said}", version, is_chosen=is_chosen)


def _judge_version(monitor: Monitor, seen: str, version: Version, *, is_chosen: bool) -> Check:
    found = find_known(monitor.known, version)
    if not found:
        return Check(monitor.name, Level.OK, seen)
    is_bad = any(one.level is Level.FAIL for one in found)
    level = Level.FAIL if is_bad and is_chosen else Level.WARN
    why = "; ".join(one.why for one in found)
    return Check(monitor.name, level, f"{seen}: {why}", found[-1].hint)


def find_known(table: Sequence[Known], version: Version) -> list[Known]:
    """What is known of a version."""
    return [one for one in table if one.since <= version < one.until]


def parse_version(monitor: Monitor, said: str) -> Version | None:
    """Of a monitor's own words; None for those of another program."""
    found = re.match(rf"{re.escape(monitor.banner)}\s+v?(\d+)\.(\d+)(?:\.(\d+))?", said.strip())
    if found is None:
        return None
    return int(found[1]), int(found[2]), int(found[3] or 0)
