"""Make a plan true: the effects between COMMIT and STARTED, in their order.

`apply_plan` fixes the order of docs/guest-protocol.md section 4.1; an `Effects` does each step. Any
exception means that the instance must not be used.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from agentd.guest.prepare import Plan
from agentd.guest.session import Session
from agentd.guest.settings import Settings
from agentd.guest.wire import encode_json

# include/uapi/linux/random.h
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
# machine-id(5); a UUID: each with its newline
_MACHINE_ID_BYTES = 33
_BOOT_ID_BYTES = 37
_CLOCK_TRIES = 3
_CLOCK_ERROR_NS = 1_000_000
PROCESS_STEPS = ("environment", "directory", "reseed", "hooks")

Renew = Callable[[Sequence[str], Mapping[str, str], str], None]


class EffectError(Exception):
    """An effect cannot be had on this machine."""


class Effects(Protocol):
    """What a fork needs done to itself; each method raises when it cannot."""

    def add_entropy(self, plan: Plan) -> None:
        """Kernel generator: mix in, credit, reseed."""

    def set_clock(self, plan: Plan) -> None:
        """Wall clock."""

    def set_hostname(self, plan: Plan) -> None:
        """Host name."""

    def set_machine_id(self, plan: Plan) -> None:
        """The machine id."""

    def renew_boot_id(self, plan: Plan) -> None:
        """The boot id."""

    def set_environment(self, plan: Plan) -> None:
        """Environment of what starts from now on."""

    def bind_workspace(self, plan: Plan) -> None:
        """The session's directory, its files, its record."""

    def renew_processes(self, plan: Plan) -> None:
        """In every process: environment, directory, generators, hooks; each confirms."""


def apply_plan(effects: Effects, plan: Plan) -> None:
    """Do all of it, in order; raises whatever the first failing effect raises."""
    effects.add_entropy(plan)
    effects.set_clock(plan)
    effects.set_hostname(plan)
    effects.set_machine_id(plan)
    effects.renew_boot_id(plan)
    effects.set_environment(plan)
    effects.bind_workspace(plan)
    effects.renew_processes(plan)


class SystemEffects:
    """The real effects.

    Args: renew: reaches the processes: steps, environment, directory. Paths can be moved by tests.
    """

    def __init__(
        self,
        settings: Settings,
        session: Session,
        renew: Renew,
        *,
        random_device: str = "/dev/urandom",
        machine_id_file: str = "/etc/machine-id",
        boot_id_file: str = "",
    ) -> None:
        self._settings = settings
        self._session = session
        self._renew = renew
        self._machine_id_file = machine_id_file
        self._boot_id_file = boot_id_file
        machine_id_file = machine_id_file if settings.is_vm else ""
        sizes = {machine_id_file: _MACHINE_ID_BYTES, boot_id_file: _BOOT_ID_BYTES}
        self._files = _IdFiles({path: size for path, size in sizes.items() if path})
        self._random_fd = os.open(random_device, os.O_WRONLY | os.O_CLOEXEC)

    def add_entropy(self, plan: Plan) -> None:
        """random(4). A container may only mix bytes in: its host reseeds the kernel."""
        seed = plan.entropy
        if not self._settings.is_vm:
            if seed:
                os.write(self._random_fd, seed)
            return
        if not seed and " rdrand" not in Path(self._settings.proc, "cpuinfo").read_text("ascii"):
            raise EffectError("no entropy came with PREPARE, and the CPU has no RDRAND")
        if seed:
            credit = struct.pack("ii", len(seed) * 8, len(seed))
            fcntl.ioctl(self._random_fd, RNDADDENTROPY, credit + seed)
        fcntl.ioctl(self._random_fd, RNDRESEEDCRNG)

    def set_clock(self, plan: Plan) -> None:
        """clock_settime(2), when COMMIT brought a time; again when setting it took so long that it
        is late already, as the first pass through the kernel's code does under emulation."""
        tries = 0
        while (now_ns := plan.wall_clock_now(time.monotonic_ns())) is not None:
            is_right = tries > 0 and abs(now_ns - time.time_ns()) < _CLOCK_ERROR_NS
            if is_right or tries == _CLOCK_TRIES:
                return
            time.clock_settime_ns(time.CLOCK_REALTIME, now_ns)
            tries += 1

    def set_hostname(self, plan: Plan) -> None:
        """sethostname(2), when the plan has one."""
        if plan.hostname:
            socket.sethostname(plan.hostname)

    def set_machine_id(self, plan: Plan) -> None:
        """machine-id(5) of a VM of ours, random when the plan has none."""
        if self._settings.is_vm:
            text = plan.machine_id or os.urandom(16).hex()
            self._files.write(self._machine_id_file, text + "\n")

    def renew_boot_id(self, plan: Plan) -> None:
        """New content for the file that boot has bound over the kernel's."""
        if self._boot_id_file:
            self._files.write(self._boot_id_file, random_uuid() + "\n")

    def set_environment(self, plan: Plan) -> None:
        """Kept for interpreters and commands that start later."""
        self._session.task_id = plan.task_id
        self._session.session_id = plan.session_id
        self._session.environment.update(plan.environment)
        if plan.session_id:
            self._session.environment["SNAPSTART_SESSION_ID"] = plan.session_id
        if plan.task_id:
            self._session.environment["SNAPSTART_TASK_ID"] = plan.task_id

    def bind_workspace(self, plan: Plan) -> None:
        """Made and filled as the user that the code runs as."""
        if plan.workspace:
            self._session.workspace = plan.workspace
            self._make_directories(plan.workspace)
        for path, body in plan.files.items():
            self._place(os.path.join(self._session.workspace, path), body)
        if plan.metadata and self._settings.session_file:
            record = {"session_id": plan.session_id, "metadata": dict(plan.metadata)}
            self._place(self._settings.session_file, encode_json(record))

    def _place(self, path: str, body: bytes) -> None:
        """No user code has run yet, so nothing in the way can be a trap of its making."""
        self._make_directories(os.path.dirname(path))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(body)
            while view:
                view = view[os.write(fd, view) :]
            self._give(fd)
        finally:
            os.close(fd)

    def _make_directories(self, path: str) -> None:
        if not os.path.isdir(path):
            self._make_directories(os.path.dirname(path))
            os.mkdir(path, 0o755)
            self._give(path)

    def _give(self, target: int | str) -> None:
        uid, gid = self._settings.uid, self._settings.gid
        if uid is not None and gid is not None:
            os.chown(target, uid, gid)

    def renew_processes(self, plan: Plan) -> None:
        """Zygote and interpreter confirm, or this raises."""
        is_moved = self._session.workspace != self._settings.workspace
        steps = [step for step in PROCESS_STEPS if step != "directory" or is_moved]
        self._renew(steps, self._session.environment, self._session.workspace)


def random_uuid() -> str:
    """A version 4 UUID (RFC 9562) from the kernel's generator."""
    value = bytearray(os.urandom(16))
    value[6] = value[6] & 0x0F | 0x40
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class _IdFiles:
    """Identity files kept open across the snapshot: after a restore each costs one write.

    Args: sizes: path to the bytes that each content has; what a file has beyond goes at once.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        self._fds = {path: os.open(path, flags, 0o644) for path in sizes}
        for path, size in sizes.items():
            os.ftruncate(self._fds[path], min(size, os.fstat(self._fds[path]).st_size))

    def write(self, path: str, text: str) -> None:
        """Replace the content."""
        os.pwrite(self._fds[path], text.encode("ascii"), 0)
