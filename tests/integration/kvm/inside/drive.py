"""Drive a daemon inside the outer machine: a template under KVM, forks of it, one report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from agentd import native
from agentd.cli.doctor_checks import Host
from agentd.cli.doctor_kvm import gather_kvm, judge_kvm
from agentd.client import Sandbox, Transport, calls
from agentd.errors import SnapStartError
from agentd.store.copier import CHUNK_BYTES, HASH_ONLY
from agentd.vmm.host import read_host_facts
from agentd.vmm.qemu_argv import MEMORY_FD
from agentd.wire import manifest
from agentd.wire.api import CreateTemplate, Template, TemplateState

TEMPLATE = "numpy"
IMAGE = "/opt/guest-image"
MEMORY_MIB = 512
BUILDS = 3  # at most
KVM_DEVICE = Path("/dev/kvm")
DATA_DIR, RUN_DIR = Path("/var/lib/snapstart"), Path("/run/snapstart")
SERVE = (sys.executable, "-m", "agentd.cli.agentd", "serve", "--accel", "kvm")
# Emulated twice, this is some ten times slower than KVM on a processor that has it, and more on a
# busy one.
PATIENCE_S = 600.0
PATIENCE = {
    f"SNAPSTART_DEADLINES__{name}_S": str(PATIENCE_S)
    for name in ("WARM", "CHECKPOINT", "SEAL", "LOAD", "FORK", "CALL", "ADOPT")
}
ASK = """
import json, os, socket, time, numpy
from pathlib import Path
clock = Path("/sys/devices/system/clocksource/clocksource0")
had_mark = "mark" in globals()
mark = True
print(json.dumps({
    "sum": int(numpy.arange(1000).sum()),
    "urandom": os.urandom(16).hex(),
    "numpy_random": int(numpy.random.randint(1 << 62)),
    "hostname": socket.gethostname(),
    "clocksource": (clock / "current_clocksource").read_text().strip(),
    "can_nest": bool({"svm", "vmx"} & set(Path("/proc/cpuinfo").read_text().split())),
    "time_s": time.time(),
    "had_mark": had_mark,
}))
"""


def uptime_s() -> float:
    """Since the outer machine's kernel started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Stages:
    """When each stage of the whole test ended, in seconds of uptime; also told on the console."""

    def __init__(self, report: dict[str, Any]) -> None:
        self._times_s = report.setdefault("uptime_s", {})
        self.ended("boot")

    def ended(self, stage: str) -> None:
        """One stage is over."""
        self._times_s[stage] = round(uptime_s(), 1)
        print(f"drive: {uptime_s():.1f} {stage} is over", flush=True)


@contextmanager
def daemon() -> Iterator[None]:
    """`agentd serve`, answering; stopped at the end, which leaves its sessions running."""
    process = subprocess.Popen(SERVE, env={**os.environ, **PATIENCE})
    try:
        wait_until_healthy(process)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def wait_until_healthy(process: subprocess.Popen[bytes]) -> None:
    """Raises: RuntimeError when the daemon ends or does not answer in time."""
    transport = Transport()
    ends_at_s = uptime_s() + PATIENCE_S
    while process.poll() is None and uptime_s() < ends_at_s:
        try:
            transport.send(calls.health())
        except SnapStartError:
            time.sleep(0.2)
        else:
            transport.close()
            return
    raise RuntimeError(f"agentd does not serve; its exit status: {process.returncode}")


def doctor_on_kvm() -> dict[str, Any]:
    """What `snapctl doctor` says of this machine's KVM; given more time than it takes itself."""
    host = Host(Path("/"), "", DATA_DIR, os.environ)
    check = judge_kvm(gather_kvm(host, PATIENCE_S))
    return {"level": check.level.value, "detail": check.detail}


def refusal_without_permission() -> dict[str, Any]:
    """What the daemon says when KVM is demanded, but only root may open it."""
    mode = KVM_DEVICE.stat().st_mode & 0o777
    KVM_DEVICE.chmod(0o600)
    try:
        done = subprocess.run(
            SERVE, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    finally:
        KVM_DEVICE.chmod(mode)
    return {"status": done.returncode, "said": done.stderr[-500:]}


def build_template(transport: Transport) -> dict[str, Any]:
    """Build the template; what the daemon says of it.

    Again where the guest's kernel panicked: the outer emulator's nested virtualisation (QEMU 7.2)
    now and then refuses an instruction of it as if it ran in user mode.
    """
    for _ in range(BUILDS):
        template = _build_once(transport)
        if template.error is None or "Kernel panic" not in template.error.message:
            break
        print(f"drive: {uptime_s():.1f} the guest's kernel panicked", flush=True)
        transport.send(calls.remove_template(TEMPLATE))
    built: dict[str, Any] = msgspec.to_builtins(template)
    return built


def _build_once(transport: Transport) -> Template:
    template = transport.send(
        calls.create_template(CreateTemplate(name=TEMPLATE, image=IMAGE, memory_mib=MEMORY_MIB))
    )
    while template.state is TemplateState.BUILDING:
        time.sleep(1)
        template = transport.send(calls.show_template(TEMPLATE))
    return template


def ask(sandbox: Sandbox) -> dict[str, Any]:
    """What a session answers, between which times of its host."""
    began_s = time.time()
    outcome = sandbox.run_code(ASK, timeout=PATIENCE_S)
    ended_s = time.time()
    if outcome.error is not None:
        raise RuntimeError(f"{sandbox}: {outcome.error}")
    answer = json.loads("".join(outcome.logs.stdout))
    return {**answer, "asked_between_s": [began_s, ended_s]}


def describe(sandbox: Sandbox) -> dict[str, Any]:
    """What the kernel says of a session's machine, what the machine says of itself."""
    info = sandbox.info
    links = [os.readlink(entry) for entry in Path(f"/proc/{info.pid}/fd").iterdir()]
    return {
        "session": info.id,
        "stages_ms": info.stages_ms,
        "uid": os.stat(f"/proc/{info.pid}").st_uid,
        "kvm_fds": sorted(link for link in links if "kvm" in link),
        "answer": ask(sandbox),
    }


def fork() -> Sandbox:
    """One session of the template."""
    return Sandbox.create(template=TEMPLATE, request_timeout=PATIENCE_S)


def is_memory_as_sealed(sandbox: Sandbox, sealed: manifest.Manifest) -> bool:
    """Whether the memory that a fork maps is still what was sealed."""
    fd = os.open(f"/proc/{sandbox.info.pid}/fd/{MEMORY_FD}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        copied = native.copy_memory(fd, HASH_ONLY, sealed.memory.size_bytes, CHUNK_BYTES)
    finally:
        os.close(fd)
    return copied.chunk_hashes == sealed.memory.chunk_hashes


def read_manifest() -> manifest.Manifest:
    """The template's manifest on disk."""
    [path] = DATA_DIR.glob(f"**/{TEMPLATE}/manifest.json")
    return manifest.decode(path.read_bytes())


def left_behind() -> Mapping[str, list[str]]:
    """What is still there of machines when all sessions ended; zombies are init's to reap."""
    running = [p.name() for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE]
    return {
        "processes": [name for name in running if name.startswith("qemu")],
        "directories": os.listdir(RUN_DIR / "vms"),
        "cgroups": [path.name for path in Path("/sys/fs/cgroup").glob("**/snapstart-*")],
    }


def exercise(report: dict[str, Any], stages: Stages) -> None:
    """All of it; the report grows on the way, so that a failure shows how far it came."""
    report["doctor"] = doctor_on_kvm()
    stages.ended("doctor")
    report["refusal"] = refusal_without_permission()
    stages.ended("refusal")
    with daemon():
        stages.ended("daemon")
        transport = Transport()
        report["status"] = msgspec.to_builtins(transport.send(calls.status()))
        report["template"] = build_template(transport)
        transport.close()
        stages.ended("template")
        sealed = read_manifest()
        report["vmm"] = msgspec.to_builtins(sealed.vmm)
        report["data_bytes"] = sealed.memory.data_bytes
        first, second = fork(), fork()
        report["forks"] = [describe(first), describe(second)]
        stages.ended("forks")
        report["is_memory_as_sealed"] = is_memory_as_sealed(first, sealed)
        second.kill()
        first.close()
    stages.ended("first daemon")
    with daemon():
        stages.ended("second daemon")
        with Sandbox.connect(first.sandbox_id) as adopted, fork() as third:
            report["adopted"] = ask(adopted)
            report["forks"].append(describe(third))
        stages.ended("fork from disk")
    report["left"] = left_behind()


def main() -> None:
    """Print the report, whatever happens."""
    host = read_host_facts()
    report: dict[str, Any] = {
        "kernel": os.uname().release,
        "host": {"can_use_kvm": host.can_use_kvm, "cpu": host.cpu},
    }
    try:
        exercise(report, Stages(report))
    except BaseException as exc:
        traceback.print_exc()
        report["failure"] = f"{type(exc).__name__}: {exc}"
    print(f"<report>{json.dumps(report)}</report>", flush=True)


if __name__ == "__main__":
    main()
