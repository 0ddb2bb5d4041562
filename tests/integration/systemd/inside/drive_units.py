"""Drive our units under systemd as PID 1 of the outer machine; one report, in parts."""

from __future__ import annotations

import json
import os
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from agentd.client import Sandbox, Transport, calls
from agentd.errors import SnapStartError
from tests.integration.kvm.inside import drive
from tests.integration.kvm.inside.drive import PATIENCE_S, Stages
from tests.integration.systemd.inside.page_server import page_server
from tests.integration.systemd.inside.standin import Machine
from tests.integration.systemd.inside.units import (
    AGENT,
    INSTALL,
    MACHINES,
    PAGER,
    REMOVE,
    UPGRADE,
    ctl,
    documented,
    group_of,
    is_alive,
    journal,
    kill_main,
    next_main,
    show,
    status_of,
    until,
)

CGROUPS = Path("/sys/fs/cgroup")
ENVIRONMENT = Path("/etc/snapstart/agentd.env")
# Of the kernel's command line: parts, and what the agent suffers, that are left out.
SKIP = "drive.skip="
COUNT = "count = globals().get('count', 0) + 1; print(count)"


def look(session: str, pid: int) -> dict[str, Any]:
    """Whether a session runs, in the same process, with the same namespace."""
    sandbox = Sandbox.connect(session)
    try:
        outcome = sandbox.run_code(COUNT, timeout=PATIENCE_S)
        said = "".join(outcome.logs.stdout).strip()
        return {"same": sandbox.info.pid == pid, "count": said}
    finally:
        sandbox.close()


def skipped() -> set[str]:
    """For a look at some of it alone; a whole run leaves out nothing."""
    words = Path("/proc/cmdline").read_text().split()
    return {one for word in words if word.startswith(SKIP) for one in word[len(SKIP) :].split(",")}


def serves() -> bool:
    transport = Transport()
    try:
        transport.send(calls.health())
    except SnapStartError:
        return False
    finally:
        transport.close()
    return True


class Agent:
    """What is done to the agent, with a look at the session after each."""

    def __init__(self, report: dict[str, Any], stages: Stages, session: str, pid: int) -> None:
        self._report, self._stages = report, stages
        self._session, self._pid = session, pid

    def suffers(self, what: str, act: Callable[[], None]) -> None:
        """Have it be another process afterwards, and the session in it the same."""
        if what in skipped():
            return
        before = show(AGENT)
        act()
        after = next_main(AGENT, before["MainPID"])
        until("an agent that serves", serves)
        self._report[what] = {
            "unit": after,
            "restarts": after["NRestarts"] - before["NRestarts"],
            "session": look(self._session, self._pid),
            "machines": show(MACHINES)["ActiveState"],
        }
        self._stages.ended(what)


def run_out_of_memory() -> None:
    """The kernel kills it for want of memory, as the limit of its own unit says."""
    pid = show(AGENT)["MainPID"]
    ctl("set-property", "--runtime", AGENT, "MemoryMax=1M")
    until("its end", lambda: not is_alive(pid))
    ctl("set-property", "--runtime", AGENT, "MemoryMax=infinity")


def stop_and_start(report: dict[str, Any], pid: int) -> None:
    ctl("stop", AGENT)
    report["stopped"] = {
        "unit": show(AGENT)["ActiveState"],
        "is_machine_alive": is_alive(pid),
        "machines": show(MACHINES)["ActiveState"],
        "run": sorted(os.listdir("/run/snapstart")),
    }
    ctl("start", AGENT)


def prepare_settings() -> None:
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    lines = [f"{name}={value}" for name, value in drive.PATIENCE.items()]
    ENVIRONMENT.write_text("\n".join([*lines, "SNAPSTART_LOG__FORMAT=json", ""]))


def agent(report: dict[str, Any], stages: Stages) -> None:
    """A template, a session, then everything that may happen to the agent."""
    until("an agent that serves", serves)
    report["ready"] = {unit: show(unit) for unit in (AGENT, MACHINES)}
    report["status_text"] = ctl("status", "--no-pager", "--lines=0", AGENT)
    report["socket"] = os.stat("/run/snapstart/agentd.sock").st_mode & 0o777
    report["socket_group"] = subprocess.run(
        ["stat", "-c", "%G", "/run/snapstart/agentd.sock"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    stages.ended("agent")
    transport = Transport()
    report["engine"] = msgspec.to_builtins(transport.send(calls.status()))
    report["template"] = drive.build_template(transport)
    transport.close()
    stages.ended("template")
    session = drive.fork()
    pid = session.info.pid
    report["machine"] = {
        "group": group_of(pid),
        "limits": limits_of(pid),
        "kvm": kvm_of(pid),
        **status_of(pid),
    }
    report["holder_group"] = group_of(show(MACHINES)["MainPID"])
    report["agent"] = {"group": group_of(show(AGENT)["MainPID"])}
    report["own_network"] = (
        os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat("/proc/1/ns/net").st_ino
    )
    report["first"] = look(session.sandbox_id, pid)
    suffering = Agent(report, stages, session.sandbox_id, pid)
    session.close()
    suffering.suffers("upgrade", lambda: documented(UPGRADE))
    suffering.suffers("kill", lambda: kill_main(AGENT))
    suffering.suffers("hang", lambda: os.kill(show(AGENT)["MainPID"], 19))
    suffering.suffers("memory", run_out_of_memory)
    report["holder"] = kill_holder(pid)
    suffering.suffers("stop", lambda: stop_and_start(report, pid))
    report["reload"] = reload_it(session.sandbox_id, pid)
    stages.ended("reload")
    ctl("stop", MACHINES)
    report["machines_stopped"] = {
        "units": {unit: show(unit)["ActiveState"] for unit in (AGENT, MACHINES)},
        "is_machine_alive": is_alive(pid),
        "group": (CGROUPS / "snapstart.slice" / MACHINES).exists(),
    }
    ctl("start", AGENT)
    until("an agent that serves", serves)
    transport = Transport()
    report["sessions_then"] = msgspec.to_builtins(transport.send(calls.list_sessions()))
    transport.close()
    report["left"] = drive.left_behind()
    stages.ended("machines stopped")


def remove(report: dict[str, Any], stages: Stages) -> None:
    """With a machine of the page server's still there."""
    machine = Machine("last")
    documented(REMOVE)
    report["machine"] = machine.is_there()
    report["units"] = ctl("list-units", "--all", "--no-legend", "--plain", "snap*", "agentd*")
    places = ("/etc/systemd/system", "/run", "/usr/lib/sysusers.d", "/usr/lib/tmpfiles.d")
    report["files"] = [
        str(path) for place in places for path in Path(place).glob("*") if is_ours(path.name)
    ]
    machine.close()
    stages.ended("removed")


def is_ours(name: str) -> bool:
    return name.startswith(("snap", "agentd.service")) and not name.endswith(".service.d")


def install(report: dict[str, Any], stages: Stages) -> None:
    """The agent's settings are there before it starts."""
    prepare_settings()
    documented(INSTALL)
    report["enabled"] = ctl("is-enabled", AGENT).strip()
    stages.ended("installed")


def kill_holder(pid: int) -> dict[str, Any]:
    """The process that keeps the machines' control group."""
    holder = show(MACHINES)["MainPID"]
    os.kill(holder, 9)
    until("the end of the holder", lambda: not is_alive(holder))
    time.sleep(3)
    return {"unit": show(MACHINES), "is_machine_alive": is_alive(pid)}


def kvm_of(pid: int) -> list[str]:
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return sorted(link for link in links if "kvm" in link)


def limits_of(pid: int) -> dict[str, str]:
    """What the control group of a machine may use at most."""
    group = CGROUPS / group_of(pid).lstrip("/")
    found = {name: group / name for name in ("memory.max", "pids.max")}
    return {name: path.read_text().strip() for name, path in found.items() if path.exists()}


def reload_it(session: str, pid: int) -> dict[str, Any]:
    """SIGHUP: the same process goes on."""
    before = show(AGENT)["MainPID"]
    ctl("reload", AGENT)
    time.sleep(3)
    return {"same": show(AGENT)["MainPID"] == before, "session": look(session, pid)}


def logs(report: dict[str, Any]) -> None:
    """What the journal has of the agent: its own lines, and systemd's about it."""
    entries = journal(AGENT)
    ours = [entry["MESSAGE"] for entry in entries if entry.get("_COMM") == "agentd"]
    events = [json.loads(line) for line in ours if line.startswith("{")]
    report["events"] = sorted({event["event"] for event in events})
    report["unparsed"] = [line for line in ours if not line.startswith("{")][:20]
    report["systemd"] = [one["MESSAGE"] for one in entries if one.get("_COMM") == "systemd"]


def main() -> None:
    """Print the report, whatever happens."""
    report: dict[str, Any] = {"systemd": ctl("--version").split()[1]}
    stages = Stages(report)
    parts = {"install": install, "pager": page_server, "agentd": agent, "remove": remove}
    for name, part in parts.items():
        if name in skipped():
            continue
        about = report[name] = {}
        try:
            part(about, stages)
        except BaseException as exc:
            traceback.print_exc()
            report["failure"] = f"{name}: {type(exc).__name__}: {exc}"
            for unit in (AGENT, PAGER, MACHINES):
                said = [str(entry.get("MESSAGE"))[:400] for entry in journal(unit)[-30:]]
                print("\n".join([f"-- {unit}", *said]), flush=True)
            break
        if name == "agentd":
            logs(report.setdefault("journal", {}))
    failed = ctl("--failed", "--no-legend", "--plain").splitlines()
    report["failed_units"] = [line.split()[0] for line in failed if line.strip()]
    print(f"<report>{json.dumps(report)}</report>", flush=True)


if __name__ == "__main__":
    main()
