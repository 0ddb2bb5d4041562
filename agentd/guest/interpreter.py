"""Serve the supervisor's requests in the process that runs user code."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import threading
from dataclasses import dataclass

from agentd.guest import generators, snapshot_restore_py
from agentd.guest.execution import Namespace, Runner
from agentd.guest.hooks import explain
from agentd.guest.link import BlockingLink
from agentd.guest.settings import Settings
from agentd.guest.sysapi import PR_SET_DUMPABLE, prctl
from agentd.guest.wire import JsonObject

_CONTROL_FD = 1000


def become_unprivileged(settings: Settings, cgroup: str) -> None:
    """Enter the cgroup, the limits, the user of sessions; order matters, privileges go last."""
    if cgroup:
        _write(f"{cgroup}/cgroup.procs", "0")
    _write("/proc/self/oom_score_adj", "1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if settings.uid is None or settings.gid is None:
        return
    resource.setrlimit(resource.RLIMIT_NPROC, (settings.max_processes,) * 2)
    os.setgroups([])
    os.setresgid(settings.gid, settings.gid, settings.gid)
    os.setresuid(settings.uid, settings.uid, settings.uid)
    # Changing ids cleared it; without it the process may not open its own /proc/self files.
    prctl(PR_SET_DUMPABLE, 1)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


@dataclass
class _Server:
    link: BlockingLink
    runner: Runner
    main_pid: int

    def answer(self, request: JsonObject) -> JsonObject:
        kind = request.get("type")
        if kind == "execute":
            return self.runner.run(request)
        if kind == "renew":
            return renew(request)
        if kind == "quiesce":
            return quiesce()
        if kind == "inspect":
            return self._inspect()
        raise ValueError(f"request type {kind!r}")

    def _inspect(self) -> JsonObject:
        return {
            "type": "inspected",
            "names": self.runner.namespace.user_names(),
            "threads": [thread.name for thread in threading.enumerate()][1:],
            "modules": sorted(name for name in sys.modules if name != "__main__"),
            "environment": dict(os.environ),
            "directory": _directory(),
        }


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def quiesce() -> JsonObject:
    """Run the hooks before a snapshot.

    Returns: `quiesced`, or `failed` with the reason.
    """
    try:
        snapshot_restore_py.run_before_snapshot()
    except Exception as exc:
        return {"type": "failed", "message": explain(exc)}
    return {"type": "quiesced"}


def renew(request: JsonObject) -> JsonObject:
    """Take on a session: each step the supervisor lists, in the order given here.

    Args: request: `steps` of `environment`, `directory`, `reseed`, `hooks`.
    Returns: `renewed`, or `failed` with the reason.
    """
    steps = request["steps"]
    try:
        if "environment" in steps:
            for name, text in request["environment"].items():
                os.environ[name] = text
        if "directory" in steps:
            os.chdir(request["directory"])
            os.environ["HOME"] = request["directory"]
        if "reseed" in steps:
            generators.reseed_all()
        if "hooks" in steps:
            snapshot_restore_py.run_after_restore()
    except Exception as exc:
        return {"type": "failed", "message": explain(exc)}
    return {"type": "renewed"}


def serve(control: socket.socket, stdout_fd: int, stderr_fd: int, settings: Settings) -> None:
    """The life of an interpreter process; owns the descriptors; returns when told to end."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = _adopt_descriptors(control, stdout_fd, stderr_fd)
    become_unprivileged(settings, settings.cgroup)
    os.umask(0o022)
    os.chdir(settings.workspace)
    os.environ.clear()
    os.environ.update(settings.environment)
    generators.reseed_all()
    link = BlockingLink(control)
    runner = Runner(link.send, Namespace())
    runner.install()
    runner.namespace.install()
    server = _Server(link, runner, os.getpid())
    os.register_at_fork(after_in_child=control.close)
    link.send({"type": "ready", "pid": os.getpid()})
    while (request := link.receive()) is not None:
        link.send(server.answer(request))


def _adopt_descriptors(control: socket.socket, stdout_fd: int, stderr_fd: int) -> socket.socket:
    """Put the standard streams in place; keep nothing else but the control socket, far up."""
    os.dup2(stdout_fd, 1)
    os.dup2(stderr_fd, 2)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    number = _CONTROL_FD
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft <= number + 64:
        if hard < number + 64 and hard != resource.RLIM_INFINITY:
            number = soft - 64
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, (number + 64, hard))
    os.dup2(control.fileno(), number, inheritable=False)
    control.detach()
    os.closerange(3, number)
    os.closerange(number + 1, number + 64)
    return socket.socket(fileno=number)
