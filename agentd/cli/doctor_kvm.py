"""Judge whether machines can use KVM, really."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentd.cli.doctor_checks import Check, Host, Level

_PROBE_S: Final = 5.0
_REAP_S: Final = 1.0


@dataclass(frozen=True)
class KvmFacts:
    """flag: vmx, svm or nothing. opened: what opening /dev/kvm said; empty: it opened. ran: what a
    machine of one instruction said; empty: it ran; None: not tried.
    """

    flag: str
    opened: str
    ran: str | None


def gather_kvm(host: Host, probe_s: float = _PROBE_S) -> KvmFacts:
    """Look at the cpu and the device, then run a machine, where there is hope for it."""
    flags = re.search(r"^flags\s*:(.*)$", host.read("proc/cpuinfo"), re.MULTILINE)
    found = {"vmx", "svm"} & set(flags.group(1).split() if flags else ())
    device = host.root / "dev/kvm"
    opened = _open(str(device))
    # Without the flag nothing is tried: there, guests of a para-virtual device hang in the kernel.
    ran = run_probe(str(device), probe_s) if found and not opened else None
    return KvmFacts(min(found, default=""), opened, ran)


def judge_kvm(facts: KvmFacts) -> Check:
    """Without KVM everything works, ten times slower."""
    slow = "forks take 0.2-0.4 s under emulation"
    if not facts.flag:
        device = "/dev/kvm opens all the same" if not facts.opened else f"/dev/kvm: {facts.opened}"
        hint = f"{slow}; use a machine with (nested) virtualisation"
        detail = f"the cpu has neither vmx nor svm: TCG is used ({device})"
        return Check("kvm", Level.WARN, detail, hint)
    if facts.opened:
        module = "kvm_intel" if facts.flag == "vmx" else "kvm_amd"
        hint = f"modprobe {module}, and let agentd's user open the device; {slow}"
        return Check("kvm", Level.WARN, f"cpu has {facts.flag}, /dev/kvm: {facts.opened}", hint)
    if facts.ran:
        hint = f'set monitor.accel = "tcg" until the host\'s KVM is mended; {slow}'
        detail = f"cpu has {facts.flag}, /dev/kvm opens, but a machine did not run: {facts.ran}"
        return Check("kvm", Level.FAIL, detail, hint)
    return Check("kvm", Level.OK, f"cpu has {facts.flag}, a machine of /dev/kvm ran")


def run_probe(device: str, probe_s: float) -> str:
    """Run a machine in a process of its own. Returns: what it said, empty if all is well."""
    argv = [sys.executable, "-m", "agentd.cli.doctor_kvm_probe", device]
    return run_with_limit(argv, probe_s)


def run_with_limit(argv: Sequence[str], limit_s: float) -> str:
    """What a program printed when it failed; one that hangs is killed, and not waited for long."""
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _kill(child)
        return f"no answer within {limit_s:g} s"
    return "" if child.returncode == 0 else said.strip()[-200:] or "it was killed"


def _kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that sleeps in the kernel stays
        child.communicate(timeout=_REAP_S)
    if child.stdout is not None:
        child.stdout.close()


def _open(path: str) -> str:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return str(exc.strerror)
    return ""
