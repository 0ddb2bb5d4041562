"""Say what a virtual machine monitor must be able to do."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from agentd.store.loaded import LoadedTemplate
from agentd.wire.manifest import Machine, VmmFacts


@dataclass(frozen=True)
class BootSpec:
    """A machine to boot from a guest image.

    run_dir: exists, private to this VM, short enough for socket paths in it (107 bytes).
    """

    vm_id: str
    run_dir: Path
    kernel: Path
    initrd: Path
    cmdline: str
    machine: Machine


@dataclass(frozen=True)
class ForkSpec:
    """A fork to start. prepare: the JSON body of the inject protocol's PREPARE."""

    vm_id: str
    run_dir: Path
    prepare: bytes


@dataclass(frozen=True)
class VmRecord:
    """What the journal keeps of a VM so that a successor can find it again.

    create_time_ticks: field 22 of /proc/PID/stat; with the pid it names one process for ever.
    """

    vm_id: str
    run_dir: Path
    pid: int
    create_time_ticks: int


@dataclass(frozen=True)
class Connected:
    """A guest channel handed over with what was already read from it.

    sock: owned by the receiver. epoch: of this connection. leftover: bytes after STARTED.
    next_stream: the next unused stream id.
    """

    sock: socket.socket
    epoch: bytes
    leftover: bytes
    next_stream: int


@dataclass(frozen=True)
class Checkpoint:
    """A frozen guest: sealed memfds of its RAM, of its device state; owned by the receiver."""

    memory_fd: int
    state_fd: int
    facts: VmmFacts
    stages_ms: Mapping[str, float] = field(default_factory=dict)


class Vm(Protocol):
    """One running machine; the owner must `kill` it, or leave it for a successor with `release`."""

    @property
    def record(self) -> VmRecord:
        """What a successor needs."""

    @property
    def channel_path(self) -> Path:
        """The socket of the guest channel."""

    @property
    def channel_prelude(self) -> bytes:
        """What a new connection to it begins with; empty where it is the guest itself."""

    @property
    def is_running(self) -> bool:
        """False once the process is known to have ended."""

    @property
    def has_network_device(self) -> bool:
        """True when this daemon gave the machine one."""

    async def wait(self) -> str:
        """Wait for the machine's end; returns how it ended in words, "released" after `release`.

        Cancellation: harmless.
        """

    async def kill(self) -> None:
        """End the machine, reap it, remove its sockets; not after `release`. Idempotent.

        Cancellation: takes effect once all of that is done, which is soon.
        """

    def release(self) -> None:
        """Forget the machine without ending it. Idempotent."""

    async def console_tail(self, *, deadline_s: float) -> str:
        """The last text on the guest's console, at most 4 KiB; empty when there is none."""


@dataclass(frozen=True)
class Started:
    """A machine whose guest has its identity.

    stages_ms: when each stage was over, since begun_ns, of CLOCK_MONOTONIC.
    """

    vm: Vm
    channel: Connected
    stages_ms: Mapping[str, float]
    begun_ns: int


@runtime_checkable
class Finishing(Protocol):
    """A monitor with work of its own in the event loop."""

    async def finish(self) -> None:
        """End that work; before `close`. Cancellation: it is ended all the same."""


class Vmm(Protocol):
    """A virtual machine monitor of this node."""

    def facts(self, machine: Machine) -> VmmFacts:
        """What templates of this monitor depend on."""

    def check(self) -> None:
        """See whether machines can be started now, without starting one. Raises: ConfigError."""

    async def boot(self, spec: BootSpec) -> Vm:
        """Start a machine from an image with RAM that `checkpoint` can keep.

        Returns as soon as the process runs, for which nothing is waited.
        Raises: ConfigError, TransientError, PeerError.
        Cancellation: kills the machine.
        """

    async def boot_session(self, spec: BootSpec, prepare: bytes, *, deadline_s: float) -> Started:
        """Boot a machine cold, inject its identity, wait until it has started.

        Raises: as `fork`. Cancellation: kills the machine.
        """

    async def checkpoint(self, vm: Vm, *, deadline_s: float) -> Checkpoint:
        """Freeze a booted machine, keep its state, end it.

        Raises: PeerError when the monitor refuses or hangs up; TransientError at the deadline;
        InvariantError, leaving it alone, when the machine was not booted by `boot`.
        Cancellation, any other failure: kills the machine.
        """

    async def fork(self, template: LoadedTemplate, spec: ForkSpec, *, deadline_s: float) -> Started:
        """Start a copy-on-write copy of a template with an identity of its own.

        Raises: PeerError (guest or monitor misbehaves), TransientError (no memory),
        PermanentError (template does not fit this monitor). Cancellation: kills the machine.
        """

    def adopt(self, record: VmRecord) -> Vm | None:
        """Take over a machine that an earlier daemon started; None when it is gone."""

    def find_all(self) -> list[VmRecord]:
        """Every machine of this installation that runs on the host, journaled or not."""

    def forget(self, vm_id: str) -> None:
        """Remove what the host keeps of a machine that no longer runs. Idempotent."""

    def close(self) -> None:
        """Give back what it holds itself; machines run on. No call may be in progress."""
