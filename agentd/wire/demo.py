"""Define the result of one demo run, from which every report of it is made."""

from __future__ import annotations

import msgspec

VERSION = 1


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured start: milliseconds, begun at `started_at` (seconds since the Unix epoch)."""

    ms: float
    started_at: float


class Stages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When each stage of one fork was over: milliseconds since its request, never decreasing.

    spawn: the VMM runs. load: it has read the device state. resume: the guest runs. inject: the
    guest has the session's identity. guest_ready: it accepts code. first_reply: the result of the
    first code is back with the caller.
    """

    spawn: float
    load: float
    resume: float
    inject: float
    guest_ready: float
    first_reply: float


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one fork answered when asked who it is; times in nanoseconds since the Unix epoch.

    host_send_ns, host_receive_ns: the host's clock around the question, so that the guest's clock
    is right if it lies between them.
    """

    urandom: str
    random: str
    numpy: str
    uuid4: str
    uuid1: str
    hostname: str
    machine_id: str
    boot_id: str
    guest_clock_ns: int
    host_send_ns: int
    host_receive_ns: int


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the figures come from. commit: of this project, empty when not known."""

    kernel: str
    cpu: str
    cores: int
    memory_mib: int
    qemu_version: str
    python: str
    commit: str = ""
    virtualized: str = ""


class DemoResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every sample of one demo run; nothing in here is averaged.

    cold_ms: boot of a VM up to the first reply. fork_ms: the same through agentd's fork.
    bare_fork_ms: the VMM's own sequence driven without agentd. concurrent_ms: forks requested at
    the same time, concurrent_wall_ms from the first request to the last reply.
    private_mib_per_fork, shared_mib_per_fork: memory of each live fork. commands: what was typed.
    notes: what else a reader of these figures has to know.
    """

    version: int = VERSION
    engine: str
    accel: str
    template: str
    guest_memory_mib: int
    cold_ms: list[Sample]
    fork_ms: list[Sample]
    bare_fork_ms: list[Sample]
    concurrent_ms: list[Sample]
    concurrent_wall_ms: float
    private_mib_per_fork: list[float]
    shared_mib_per_fork: list[float]
    agentd_rss_mib: float
    identity: list[Identity]
    stages_ms: list[Stages]
    machine: Machine
    commands: list[str]
    notes: list[str] = []
