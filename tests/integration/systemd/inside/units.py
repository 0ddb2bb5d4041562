"""Ask systemd, and have it do things, inside the outer machine."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests.integration.kvm.inside.drive import PATIENCE_S, uptime_s

T = TypeVar("T")
AGENT, PAGER, MACHINES = "agentd.service", "snap-pager.service", "snapstart-machines.service"
# Its marked commands are run as they stand.
PAGE = Path("/opt/snapstart/docs/operator.md")
MARK = "<!-- run by: tests/integration/systemd/inside/units.py -->"
INSTALL, UPGRADE, REMOVE = range(3)


def ctl(*words: str) -> str:
    """systemctl(1). Raises: RuntimeError with what it said."""
    done = subprocess.run(
        ["systemctl", *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"systemctl {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def documented(number: int) -> None:
    """Run one of the page's blocks of commands. Raises: RuntimeError with what they said."""
    blocks = re.findall(rf"{re.escape(MARK)}\n```sh\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    done = subprocess.run(
        ["sh", "-e", "-c", blocks[number]],
        capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{blocks[number]}: {done.stdout}{done.stderr}")


def refusal(*words: str) -> str:
    """What systemctl(1) says when it does not do it, empty if it does."""
    try:
        ctl(*words)
    except RuntimeError as exc:
        return str(exc)
    return ""


def show(unit: str) -> dict[str, Any]:
    """What systemd says of a unit."""
    names = "ActiveState SubState StatusText MainPID NRestarts NFileDescriptorStore ControlGroup"
    text = ctl("show", "-p", names.replace(" ", ","), unit)
    found: dict[str, Any] = dict(line.split("=", 1) for line in text.splitlines())
    for name in ("MainPID", "NRestarts", "NFileDescriptorStore"):
        found[name] = int(found.get(name) or 0)
    return found


def kill_main(unit: str) -> None:
    ctl("kill", "--signal=KILL", "--kill-whom=main", unit)


def journal(unit: str) -> list[dict[str, Any]]:
    """What the journal has of a unit, oldest first."""
    words = ["journalctl", "-b", "-u", unit, "-o", "json", "--no-pager"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def until(what: str, holds: Callable[[], T | None], deadline_s: float = PATIENCE_S) -> T:
    """Raises: TimeoutError."""
    ends_at_s = uptime_s() + deadline_s
    while uptime_s() < ends_at_s:
        found = holds()
        if found:
            return found
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {deadline_s:g} s")


def next_main(unit: str, former_pid: int) -> dict[str, Any]:
    """The unit once it is ready with another main process."""

    def found() -> dict[str, Any] | None:
        now = show(unit)
        return now if now["SubState"] == "running" and now["MainPID"] != former_pid else None

    return until(f"{unit} with another process than {former_pid}", found)


def group_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")


def status_of(pid: int) -> Mapping[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    wanted = ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp", "Uid")
    return {name: fields[name].strip() for name in wanted}


def is_alive(pid: int) -> bool:
    """Zombies are dead."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
