"""Define the groups of settings that concern the machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agentd.typed_settings import Group
from agentd.units import MIB

MONITORS: Final = ("qemu", "firecracker", "cloud-hypervisor")


class Paths(Group, frozen=True):
    """Where things are; unset takes the default of the user (root: /var/lib, /run, /var/cache)."""

    # Templates, history, installation id: survives a reboot.
    data_dir: Path | None = None
    # Sockets, the journal of running VMs: has their lifetime, so a tmpfs is right.
    run_dir: Path | None = None
    # Guest images that `snapctl image build` made; shared with the command line.
    image_cache_dir: Path | None = None


class Api(Group, frozen=True):
    """The local API."""

    # Unset: agentd.sock in run_dir.
    socket: Path | None = None
    # Octal text; the group may use the API, because access to it is access to every session.
    socket_mode: str = "0660"
    # Largest JSON body in bytes: the 4 MiB of a guest message, base64-grown, plus its envelope.
    max_body_bytes: int = 8 * MIB
    # Largest uploaded file in bytes: a workspace lives in the memory of its VM.
    max_file_bytes: int = 256 * MIB


class Http(Group, frozen=True):
    """Health and metrics by TCP, without TLS, without secrets, for kubelets and Prometheus."""

    # Empty: all addresses.
    host: str = ""
    # 0: only the local API has them.
    port: int = 0


class Monitor(Group, frozen=True):
    """The virtual machine monitor."""

    # qemu, firecracker, cloud-hypervisor; the last two need KVM.
    kind: str = "qemu"
    # A name is looked up in PATH; 1.8 or newer.
    firecracker_binary: str = "firecracker"
    # A name is looked up in PATH; 48 or newer.
    cloud_hypervisor_binary: str = "cloud-hypervisor"
    # A name is looked up in PATH.
    qemu_binary: str = "qemu-system-x86_64"
    # auto takes KVM where it is usable, else TCG; kvm refuses to start without; tcg.
    accel: str = "auto"
    # Each VM runs as uid_base + n when the daemon is root: one escaped VM cannot touch another.
    # 0 keeps machines under the daemon's own user.
    uid_base: int = 1_900_000_000


class Machines(Group, frozen=True):
    """The shape of a template that does not say its own."""

    # MiB of guest RAM: to boot, kernel, packed and unpacked image have to fit at once, 281 for the
    # default image (engine.plans.least_memory_mib). What a fork does not touch costs nothing.
    memory_mib: int = 512
    # One: parallel guests gain more from more forks than from more processors.
    vcpus: int = 1
    # Most that a caller may ask for, in MiB.
    max_memory_mib: int = 8192
    # The same of processors.
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

    # Until a session is ended.
    default_ttl_s: float = 3600.0
    # Most that a caller may ask for.
    max_ttl_s: float = 86400.0
    # Without a request until a session is ended: forgotten ones are the usual leak of a node.
    default_idle_timeout_s: float = 900.0
    # Most that a caller may ask for.
    max_idle_timeout_s: float = 86400.0


class Deadlines(Group, frozen=True):
    """How long one step may take; seconds. Generous: the emulator is 20 times slower than KVM."""

    # Until the guest of a template that is built answers.
    warm_s: float = 120.0
    # To freeze it.
    checkpoint_s: float = 60.0
    # To write the template.
    seal_s: float = 120.0
    # To read a template from disk.
    load_s: float = 60.0
    # For a fork, queueing included, if the caller gives no deadline_s.
    fork_s: float = 30.0
    # The same for a cold start.
    cold_s: float = 120.0
    # One guest service call that moves no user data.
    call_s: float = 30.0
    # For an upload, plus one second for each MiB.
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
    # Its --control. Unset: pager.sock in run_dir.
    control_socket: Path | None = None
    # Its --journal, on a tmpfs: what a successor needs has to stay in memory, and to end with the
    # machines at a reboot. Unset: pager in run_dir if that is on one, else a place in /dev/shm.
    journal_dir: Path | None = None
    # snap-pager. Unset: the one that was built with this package.
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
    # Where a Kuasar sandboxer's hypervisor hands its memory over, /tmp/uffd.sock. Unset: nowhere.
    kuasar_socket: Path | None = None
    # Below it are the sandboxes whose memory images may be named there.
    kuasar_dir: Path | None = None


class Stop(Group, frozen=True):
    """How long each stage of a stop may take; seconds. The unit's TimeoutStopSec is above them."""

    # For requests in progress.
    requests_s: float = 5.0
    # For builds and parked forks to end.
    builds_s: float = 10.0
    # To write the history.
    records_s: float = 5.0

    @property
    def longest_s(self) -> float:
        """All stages of `daemon.serve` and `Engine.stop`, each as long as it may be."""
        return 4 * self.requests_s + 3 * self.builds_s + self.records_s


class Tracing(Group, frozen=True):
    """Traces of starts and builds, for OpenTelemetry. Needs the packages of the extra `otel`."""

    # Where a collector takes OTLP by HTTP, such as http://127.0.0.1:4318; empty: no traces.
    endpoint: str = ""


class Log(Group, frozen=True):
    """What is written to standard error."""

    # debug, info, warning or error.
    level: str = "info"
    # json for machines, text for people.
    format: str = "text"
