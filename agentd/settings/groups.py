"""Define the groups of settings that concern the machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from agentd.units import MIB

MONITORS: Final = ("qemu", "firecracker", "cloud-hypervisor")


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of one subject: a misspelt key is refused, never ignored."""


class Paths(Group, frozen=True):
    """Where things are; None takes the default of the user (root: /var/lib, /run, /var/cache)."""

    # Templates, history, installation id: survives a reboot.
    data_dir: Path | None = None
    # Sockets, the journal of running VMs: has their lifetime, so a tmpfs is right.
    run_dir: Path | None = None
    # Guest images that `snapctl image build` made; shared with the command line.
    image_cache_dir: Path | None = None


class Api(Group, frozen=True):
    """The local API."""

    # None: agentd.sock in run_dir.
    socket: Path | None = None
    # Octal text; the group may use the API, because access to it is access to every session.
    socket_mode: str = "0660"
    # Largest JSON body in bytes: the 4 MiB of a guest message, base64-grown, plus its envelope.
    max_body_bytes: int = 8 * MIB
    # Largest uploaded file in bytes: a workspace lives in the memory of its VM.
    max_file_bytes: int = 256 * MIB


class Monitor(Group, frozen=True):
    """The virtual machine monitor."""

    # qemu works without KVM; the others need it.
    kind: str = "qemu"
    firecracker_binary: str = "firecracker"
    cloud_hypervisor_binary: str = "cloud-hypervisor"
    # A name is looked up in PATH.
    qemu_binary: str = "qemu-system-x86_64"
    # auto takes KVM where it is usable, else TCG.
    accel: str = "auto"
    # Each VM runs as uid_base + n when the daemon is root: one escaped VM cannot touch another.
    uid_base: int = 1_900_000_000


class Machines(Group, frozen=True):
    """The shape of a template that does not say its own."""

    # MiB of guest RAM: to boot, kernel, packed and unpacked image have to fit at once, 281 for the
    # default image (engine.plans.least_memory_mib). What a fork does not touch costs nothing.
    memory_mib: int = 512
    # One: parallel guests gain more from more forks than from more processors.
    vcpus: int = 1
    # Upper bounds of what a caller may ask for.
    max_memory_mib: int = 8192
    max_vcpus: int = 8


class Admission(Group, frozen=True):
    """How much may run here at once."""

    # Bytes for all VMs with their templates; 0 takes 80 % of the machine's memory.
    memory_bytes: int = 0
    # Bytes of MemAvailable left to the host whatever the budget says.
    host_reserve_bytes: int = 256 * MIB
    # Expected private bytes of one fork: measured 38 MiB after a numpy request under the emulator,
    # a good part of which is translated code, so KVM needs less. The rest is for the session's own
    # data; a promise too small is caught by MemAvailable, one too large leaves memory unused.
    fork_private_bytes: int = 64 * MIB
    # Forks that start at the same moment; 0 takes the number of processors, as each needs one.
    concurrent_forks: int = 0
    # Requests waiting for a start; one more is refused at once instead of timing out.
    queued_forks: int = 128
    # Live sessions: a bound on processes, uids and sockets.
    max_sessions: int = 512


class Lifetime(Group, frozen=True):
    """How long a session lives; seconds."""

    default_ttl_s: float = 3600.0
    max_ttl_s: float = 86400.0
    # Forgotten sessions are the usual leak of a node.
    default_idle_timeout_s: float = 900.0
    max_idle_timeout_s: float = 86400.0


class Deadlines(Group, frozen=True):
    """How long one step may take; seconds. Generous: the emulator is 20 times slower than KVM."""

    warm_s: float = 120.0
    checkpoint_s: float = 60.0
    seal_s: float = 120.0
    load_s: float = 60.0
    fork_s: float = 30.0
    cold_s: float = 120.0
    # One guest service call that moves no user data.
    call_s: float = 30.0
    # Bytes of a file must keep moving at least this often.
    transfer_s: float = 60.0
    # An adopted guest answers within this, or it is ended.
    adopt_s: float = 10.0


class Warm(Group, frozen=True):
    """Forks parked in advance: a convenience of one machine, never part of a measurement."""

    # Parked forks per template; each costs fork_private_bytes.
    count: int = 0


class Pager(Group, frozen=True):
    """The page server, which fills the memory of machines whose monitor leaves that to others."""

    # auto uses one that answers on the control socket, and starts one where a monitor of this node
    # needs it and none answers. off: monitors map files.
    enabled: str = "auto"
    # Its --control. None: pager.sock in run_dir.
    control_socket: Path | None = None
    # Its --journal, on a tmpfs: what a successor needs has to stay in memory, and to end with the
    # machines at a reboot. None: pager in run_dir if that is on one, else a place in /dev/shm.
    journal_dir: Path | None = None
    # snap-pager. None: the one that was built with this package.
    binary: Path | None = None
    # Seconds from the order to the hand-over of the memory: a monitor connects within milliseconds,
    # one that has not by then will not.
    hand_over_s: float = 10.0
    # Threads that wait for disks, so that a cold page of one machine stops no other; more of them
    # than a disk serves at once gain nothing.
    readers: int = 4
    # MiB of a template's working set at most; to install as much takes about 50 ms. Guests touch
    # less before they answer; a recording of more is of something else.
    working_set_mib: int = 128
    # First forks of a template that are recorded, at the price of slower faults; what most of them
    # touched is installed in later ones. Three is the least number of which most is not all.
    record_forks: int = 3
    # Where a Kuasar sandboxer's hypervisor hands its memory over, /tmp/uffd.sock; None: nowhere.
    kuasar_socket: Path | None = None
    # Below it are the sandboxes whose memory images may be named there.
    kuasar_dir: Path | None = None


class Stop(Group, frozen=True):
    """How long each stage of a stop may take; seconds. TimeoutStopSec must exceed `longest_s`."""

    requests_s: float = 5.0
    builds_s: float = 10.0
    records_s: float = 5.0

    @property
    def longest_s(self) -> float:
        """All stages of `daemon.serve` and `Engine.stop`, each as long as it may be."""
        return 4 * self.requests_s + 3 * self.builds_s + self.records_s


class Log(Group, frozen=True):
    """What is written to standard error."""

    # debug, info, warning or error.
    level: str = "info"
    # json for machines, text for people.
    format: str = "text"
