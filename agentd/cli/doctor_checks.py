"""Hold what a check is, with those that every node needs, whatever runs its machines."""

from __future__ import annotations

import enum
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agentd.client import calls
from agentd.client.transport import Transport
from agentd.errors import ErrorCode, SnapStartError

DAEMON_S: Final = 10.0  # a loop that turns answers at once; one of a full host within seconds


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    # It was not looked at, or nobody needs it here; the detail says why.
    SKIP = "skip"


@dataclass(frozen=True)
class Check:
    """One look at the machine. hint: what to do, empty when nothing has to be done."""

    name: str
    level: Level
    detail: str
    hint: str = ""

    @property
    def id(self) -> str:
        """For programs; never changes its meaning."""
        return self.name.replace(" ", "-")

    def document(self) -> dict[str, str]:
        """For --json."""
        return {
            "id": self.id,
            "name": self.name,
            "level": self.level.value,
            "detail": self.detail,
            "hint": self.hint,
        }


@dataclass(frozen=True)
class Host:
    """Where to look. root: of the file system. socket: of agentd. state_dir: for templates."""

    root: Path
    socket: str
    state_dir: Path
    environ: Mapping[str, str]

    def read(self, path: str) -> str:
        """A file's text, empty if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return ""


Look = Callable[[Host], Check]


def run_checks(host: Host, looks: Iterable[Look]) -> list[Check]:
    """Those given, in their order. None of them raises or changes anything."""
    return [look(host) for look in looks]


def check_linux(_host: Host) -> Check:
    """The kernel's kind and age."""
    system, release, machine = platform.system(), platform.release(), platform.machine()
    detail = f"{system} {release} {machine}"
    if system != "Linux" or machine != "x86_64":
        return Check("system", Level.FAIL, detail, "SnapStart needs Linux on x86_64")
    if _version(release) < (5, 14):
        hint = "use Linux 5.14 or newer: cgroup.kill and pidfds are needed"
        return Check("system", Level.WARN, detail, hint)
    return Check("system", Level.OK, detail)


def check_python(_host: Host) -> Check:
    """The interpreter; one too old for this package could not have started it."""
    return Check("python", Level.OK, platform.python_version())


def check_apt(host: Host) -> Check:
    """Package lists, from which guest images are built."""
    folder = host.root / "var/lib/apt/lists"
    if any(folder.glob("*_Packages*")):
        return Check("apt lists", Level.OK, f"present in {folder}")
    hint = "run `apt-get update` before `snapctl image build`, or build with --rootfs"
    return Check("apt lists", Level.WARN, f"none in {folder}", hint)


def check_lz4(host: Host) -> Check:
    """The program that unpacks Debian's kernels while a guest image is built."""
    path = shutil.which("lz4", path=host.environ.get("PATH"))
    if path is not None:
        return Check("lz4", Level.OK, path)
    detail = (
        "not in PATH: `snapctl image build` leaves the kernel packed, and every boot unpacks it"
    )
    return Check("lz4", Level.WARN, detail, "apt-get install lz4, then build guest images anew")


def check_socket(host: Host) -> Check:
    """The daemon's socket and who may use it."""
    path = Path(host.socket)
    start = "start it with `agentd serve`, or name its socket with --socket or SNAPSTART_SOCKET"
    try:
        facts = path.stat()
    except OSError as exc:
        return Check("socket", Level.FAIL, f"{path}: {exc.strerror}", start)
    if not path.is_socket():
        return Check("socket", Level.FAIL, f"{path} is no socket", start)
    mode = facts.st_mode & 0o777
    detail = f"{path} mode {mode:04o} owner {facts.st_uid}:{facts.st_gid}"
    if mode & 0o007:
        hint = f"chmod o= {path}: whoever reaches it may run code in every session"
        return Check("socket", Level.WARN, f"{detail}, open to everybody", hint)
    if not os.access(path, os.R_OK | os.W_OK):
        hint = f"join group {facts.st_gid}, or run as its owner"
        return Check("socket", Level.FAIL, f"{detail}, not permitted to you", hint)
    return Check("socket", Level.OK, detail)


def check_daemon(host: Host) -> Check:
    """Whether the daemon answers, and with what."""
    transport = Transport(host.socket)
    try:
        status = transport.send(replace(calls.status(), timeout_s=DAEMON_S))
    except SnapStartError as exc:
        if exc.code is ErrorCode.AGENT_UNREACHABLE:
            return Check("daemon", Level.FAIL, exc.message, exc.hint)
        return Check("daemon", Level.FAIL, f"{exc.message} ({exc.code.value})", exc.hint)
    finally:
        transport.close()
    detail = (
        f"agentd {status.version}, {status.engine} {status.engine_version} with {status.accel}, "
        f"{status.templates} templates, {status.sessions} sessions"
    )
    return Check("daemon", Level.OK, detail)


# What every provider needs.
DAEMON: Final[tuple[Look, ...]] = (check_linux, check_python, check_socket, check_daemon)


def _version(text: str) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)
