"""Look at a machine that runs VMs of ours, and say what SnapStart will miss on it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from agentd.cli import doctor_checks as basic
from agentd.cli import doctor_reach as reach
from agentd.cli.doctor_certificates import gather_certificates, judge_certificates
from agentd.cli.doctor_checks import Check, Host, Level
from agentd.cli.doctor_directories import gather_directory, judge_directories
from agentd.cli.doctor_host import (
    gather_clock,
    gather_limits,
    gather_room,
    judge_clock_sync,
    judge_clocksource,
    judge_disk,
    judge_files,
    judge_maps,
    judge_memlock,
    judge_memory,
    judge_tasks,
    judge_template_room,
    judge_tsc,
)
from agentd.cli.doctor_kernel import gather_kernel, judge_kernel
from agentd.cli.doctor_kvm import gather_kvm, judge_kvm
from agentd.cli.doctor_monitors import MONITORS, gather_monitor, judge_monitor
from agentd.client import calls
from agentd.client.transport import Transport
from agentd.errors import SnapStartError
from agentd.pager.watch import is_wanted
from agentd.settings import Settings


@dataclass(frozen=True)
class Machine:
    """Where to look. settings: agentd's, or the defaults where they cannot be read, as `problem`
    says.
    """

    host: Host
    settings: Settings
    problem: str = ""


def run_machine_checks(machine: Machine) -> list[Check]:
    """Every check, the basic ones first. None of them raises, changes anything, or hangs."""
    host = machine.host
    return [
        basic.check_linux(host),
        basic.check_python(host),
        check_settings(machine),
        *_check_kernel(machine),
        judge_kvm(gather_kvm(host)),
        *_check_monitors(machine),
        *_check_room(host),
        *_check_clock(host),
        *_check_daemons_own(machine),
        basic.check_apt(host),
        basic.check_lz4(host),
        basic.check_socket(host),
        basic.check_daemon(host),
        *_check_sockets(machine),
        *_check_far(machine),
    ]


def check_settings(machine: Machine) -> Check:
    """Whether agentd could be started with its settings."""
    if machine.problem:
        return Check("agentd settings", Level.FAIL, machine.problem, "run `agentd config check`")
    kind = machine.settings.monitor.kind
    return Check("agentd settings", Level.OK, f"they can be used; monitor.kind is {kind}")


def some_machine_uid(settings: Settings) -> int:
    """A user that a machine may have: as root one of those set aside, else our own."""
    base = settings.monitor.uid_base
    return base if os.geteuid() == 0 and base else os.geteuid()


def _check_kernel(machine: Machine) -> list[Check]:
    uid = some_machine_uid(machine.settings)
    return judge_kernel(gather_kernel(machine.host, uid, wants_pager=_has_pager(machine)))


def _check_monitors(machine: Machine) -> list[Check]:
    chosen = machine.settings.monitor
    binaries = {
        "qemu": chosen.qemu_binary,
        "firecracker": chosen.firecracker_binary,
        "cloud-hypervisor": chosen.cloud_hypervisor_binary,
    }
    return [
        judge_monitor(
            one, gather_monitor(machine.host, binaries[one.kind]), is_chosen=one.kind == chosen.kind
        )
        for one in MONITORS
    ]


def _check_room(host: Host) -> list[Check]:
    room = gather_room(host)
    return [judge_memory(room), judge_disk(room), judge_template_room(room)]


def _check_clock(host: Host) -> list[Check]:
    clock = gather_clock(host)
    return [judge_clocksource(clock), judge_tsc(clock), judge_clock_sync(clock)]


def _check_daemons_own(machine: Machine) -> list[Check]:
    """Limits and directories, of the daemon that runs, else of one that we would start."""
    host, pid = machine.host, daemon_pid(machine.host.socket)
    limits = gather_limits(host, pid, machine.settings.admission.max_sessions)
    # A daemon of somebody else may have other settings than those we see.
    users = tuple(dict.fromkeys((_user_of(pid), os.geteuid())))
    data = gather_directory("paths.data_dir", host.state_dir, users)
    run = gather_directory("paths.run_dir", machine.settings.run_dir, users)
    return [
        judge_files(limits),
        judge_tasks(limits),
        judge_memlock(limits),
        judge_maps(limits),
        judge_directories(data, run),
    ]


def _user_of(pid: int | None) -> int:
    """Of the daemon, else our own."""
    try:
        return os.stat(f"/proc/{pid}").st_uid if pid else os.geteuid()
    except OSError:
        return os.geteuid()


def daemon_pid(socket: str) -> int | None:
    """Of the daemon that answers, if one does."""
    transport = Transport(socket)
    try:
        return transport.send(replace(calls.status(), timeout_s=basic.DAEMON_S)).pid
    except SnapStartError:
        return None
    finally:
        transport.close()


def _check_sockets(machine: Machine) -> list[Check]:
    settings = machine.settings
    kuasar = settings.kuasar
    pager = settings.pager_socket if _has_pager(machine) else None
    sockets = (
        ("pager socket", pager, "pager.enabled", False),
        ("kuasar admin socket", kuasar.admin_socket, "kuasar.enabled", True),
        ("cri socket", kuasar.cri_socket, "kuasar.enabled", True),
    )
    found = []
    for name, path, setting, is_needed in sockets:
        is_on = path is not None and (setting != "kuasar.enabled" or kuasar.enabled)
        facts = reach.gather_socket(path) if is_on and path is not None else None
        found.append(reach.judge_socket(name, facts, setting, is_needed=is_needed))
    return found


def _has_pager(machine: Machine) -> bool:
    """One that nothing needs is looked at where it is there all the same."""
    settings = machine.settings
    if settings.pager.enabled == "off":
        return False
    serves_kuasar = settings.pager.kuasar_socket is not None
    is_needed = is_wanted(settings.monitor.kind, serves_kuasar=serves_kuasar)
    return is_needed or settings.pager_socket.exists()


def _check_far(machine: Machine) -> list[Check]:
    environ = machine.host.environ
    api = reach.ask_api_server(machine.settings, environ)
    store = reach.ask_store(environ)
    now = datetime.now(UTC)
    return [
        reach.judge_answer(
            "api server", api, "node.kubeconfig or KUBECONFIG",
            "look at its address, at the credentials' rights, at the network between",
        ),
        reach.judge_answer(
            "store", store, "REDIS_ADDR or VALKEY_ADDR",
            "is it there, is the address right, does a NetworkPolicy let this host reach it?",
        ),
        judge_certificates(gather_certificates(machine.host, machine.settings), now),
    ]  # fmt: skip
