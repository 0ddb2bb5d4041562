"""Read the daemon's settings once, at start."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from agentd.errors import ConfigError, ErrorCode
from agentd.units import MIB

# A variable SNAPSTART_<GROUP>__<FIELD> overrides the file; names without "__" belong to others.
ENV_PREFIX: Final = "SNAPSTART_"
# The control plane's own begin the same: both programs may be given one environment.
_CONTROL_PLANE_PREFIX: Final = "SNAPSTART_CONTROLPLANE_"
_ENV_SEPARATOR: Final = "__"
_SOCKET_PATH_BYTES: Final = 107  # unix(7): sun_path without its terminating NUL
MONITORS: Final = ("qemu", "firecracker", "cloud-hypervisor")
_VM_PATH_TAIL: Final = len("/vms/s-0123456789abcdef/vm/channel.sock")
_MOST_READERS: Final = 64
_MOST_RECORDS: Final = 64


class _Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of one subject: a misspelt key is refused, never ignored."""


class Paths(_Group, frozen=True):
    """Where things are; None takes the default of the user (root: /var/lib, /run, /var/cache)."""

    # Templates, history, installation id: survives a reboot.
    data_dir: Path | None = None
    # Sockets, the journal of running VMs: has their lifetime, so a tmpfs is right.
    run_dir: Path | None = None
    # Guest images that `snapctl image build` made; shared with the command line.
    image_cache_dir: Path | None = None


class Api(_Group, frozen=True):
    """The local API."""

    # None: agentd.sock in run_dir.
    socket: Path | None = None
    # Octal text; the group may use the API, because access to it is access to every session.
    socket_mode: str = "0660"
    # Largest JSON body in bytes: the 4 MiB of a guest message, base64-grown, plus its envelope.
    max_body_bytes: int = 8 * MIB
    # Largest uploaded file in bytes: a workspace lives in the memory of its VM.
    max_file_bytes: int = 256 * MIB


class Monitor(_Group, frozen=True):
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


class Machines(_Group, frozen=True):
    """The shape of a template that does not say its own."""

    # MiB of guest RAM: to boot, kernel, packed and unpacked image have to fit at once, 281 for the
    # default image (engine.plans.least_memory_mib). What a fork does not touch costs nothing.
    memory_mib: int = 512
    # One: parallel guests gain more from more forks than from more processors.
    vcpus: int = 1
    # Upper bounds of what a caller may ask for.
    max_memory_mib: int = 8192
    max_vcpus: int = 8


class Admission(_Group, frozen=True):
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


class Lifetime(_Group, frozen=True):
    """How long a session lives; seconds."""

    default_ttl_s: float = 3600.0
    max_ttl_s: float = 86400.0
    # Forgotten sessions are the usual leak of a node.
    default_idle_timeout_s: float = 900.0
    max_idle_timeout_s: float = 86400.0


class Deadlines(_Group, frozen=True):
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


class Warm(_Group, frozen=True):
    """Forks parked in advance: a convenience of one machine, never part of a measurement."""

    # Parked forks per template; each costs fork_private_bytes.
    count: int = 0


class Node(_Group, frozen=True):
    """This machine's part in a Kubernetes cluster; off unless told otherwise."""

    # Work for a cluster: carry out its SandboxSnapshotTasks.
    enabled: bool = False
    # Of the Node; empty takes $NODE_NAME.
    name: str = ""
    # Empty takes $KUBECONFIG, else the service account of a Pod.
    kubeconfig: str = ""
    # Where the Lease is that says this agent lives.
    namespace: str = "agentcube-system"
    # Register a Node of its own, and run the Pods bound to it. For machines without a kubelet.
    virtual: bool = False
    # The address that a virtual Node gives for itself; empty takes that of the default route.
    address: str = ""
    # Where Pods get their addresses from. All of 127.0.0.0/8 is there already but, being the
    # loopback's, never an endpoint of a Service; another network needs CAP_NET_ADMIN.
    pod_cidr: str = "127.88.0.0/16"
    # Image references of Pods, with or without tag, to keys or directories of guest images. Nothing
    # is ever pulled. Those to snapstart.local/ that are not named take the
    # only image of the cache; if there are several, they wait.
    images: dict[str, str] = {}
    # Further labels of a virtual Node.
    labels: dict[str, str] = {}


class Kuasar(_Group, frozen=True):
    """The Kuasar sandboxer of this machine; off unless told otherwise."""

    # Snapshot and delete through it for the cluster.
    enabled: bool = False
    # Its name in SnapshotClasses and in the node's label; sandboxers call themselves otherwise.
    provider: str = "snapstart.kuasar.io"
    # Its --admin-listen and --grpc-listen.
    admin_socket: Path = Path("/run/vmm-sandboxer-admin.sock")
    grpc_socket: Path = Path("/run/vmm-sandboxer-service.sock")
    # Its --listen, where its container runtime finds it: served only once it has recovered.
    listen_socket: Path = Path("/run/vmm-sandboxer.sock")
    # Of the container runtime: where it is asked which sandbox is a Pod's.
    cri_socket: Path = Path("/run/containerd/containerd.sock")
    # The sandboxer's own settings, read for warnings, never written.
    config_file: Path = Path("/var/lib/kuasar/config.toml")
    # Seconds for one snapshot. Never cut short: a guest could stay paused.
    create_s: float = 600.0
    # Seconds that a session's Pod may wait after a silent cold start before that is told.
    stuck_s: float = 60.0
    # Delete such a Pod once, so that it is made anew while its snapshot is there.
    replace_stuck: bool = False


class Proxy(_Group, frozen=True):
    """The admin proxy for control planes of the first form; off unless told otherwise.

    It listens on $POD_IP alone. Its token is in $KUASAR_PROXY_TOKEN, unless a file is named.
    """

    # Let them make, list, delete templates of the Kuasar sandboxer over HTTP.
    enabled: bool = False
    port: int = 9090
    # Read again for every call.
    token_file: Path | None = None
    # PEM; serve TLS, and read again when they change. None: plain HTTP.
    certificate_file: Path | None = None
    key_file: Path | None = None
    # PEM; callers need a certificate that one of these signed, too.
    client_ca_file: Path | None = None


class Pager(_Group, frozen=True):
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


class Stop(_Group, frozen=True):
    """How long each stage of a stop may take; seconds. TimeoutStopSec must exceed `longest_s`."""

    requests_s: float = 5.0
    builds_s: float = 10.0
    records_s: float = 5.0

    @property
    def longest_s(self) -> float:
        """All stages of `daemon.serve` and `Engine.stop`, each as long as it may be."""
        return 4 * self.requests_s + 3 * self.builds_s + self.records_s


class Log(_Group, frozen=True):
    """What is written to standard error."""

    # debug, info, warning or error.
    level: str = "info"
    # json for machines, text for people.
    format: str = "text"


class Settings(_Group, frozen=True):
    """Everything an operator may decide. Nothing in here is secret."""

    paths: Paths = Paths()
    api: Api = Api()
    monitor: Monitor = Monitor()
    machines: Machines = Machines()
    admission: Admission = Admission()
    lifetime: Lifetime = Lifetime()
    deadlines: Deadlines = Deadlines()
    warm: Warm = Warm()
    node: Node = Node()
    kuasar: Kuasar = Kuasar()
    proxy: Proxy = Proxy()
    pager: Pager = Pager()
    stop: Stop = Stop()
    log: Log = Log()

    @property
    def data_dir(self) -> Path:
        """The data directory, resolved."""
        return _resolved(self.paths.data_dir)

    @property
    def run_dir(self) -> Path:
        """The run directory, resolved."""
        return _resolved(self.paths.run_dir)

    @property
    def image_cache_dir(self) -> Path:
        """The image cache, resolved."""
        return _resolved(self.paths.image_cache_dir)

    @property
    def socket(self) -> Path:
        """The API's socket, resolved."""
        return self.api.socket or self.run_dir / "agentd.sock"

    @property
    def pager_socket(self) -> Path:
        """The page server's control socket, resolved."""
        return self.pager.control_socket or self.run_dir / "pager.sock"

    @property
    def concurrent_forks(self) -> int:
        """Starts at the same moment, resolved."""
        return self.admission.concurrent_forks or os.cpu_count() or 1

    @property
    def socket_mode(self) -> int:
        """The API socket's permission bits."""
        return int(self.api.socket_mode, 8)


def load_settings(
    file: Path | None, environ: Mapping[str, str], *, uid: int | None = None
) -> Settings:
    """Read, complete, validate the settings.

    Args: file: TOML, None for defaults alone. environ: overrides. uid: whose default paths
    apply; None takes this process's.
    Raises: ConfigError naming the file or the variable, with the key.
    """
    raw = {} if file is None else _read_toml(file)
    where = "the defaults" if file is None else str(file)
    _convert(raw, where, strict=True)
    overrides = _overrides(environ)
    settings = _convert(_merged(raw, overrides), f"{where} with the environment", strict=False)
    completed = _with_default_paths(settings, environ, os.geteuid() if uid is None else uid)
    completed = _with_node_name(completed, environ)
    _check(completed, where)
    _check_proxy(where, completed, environ)
    return completed


def describe(settings: Settings) -> dict[str, Any]:
    """The settings in force, as plain values for a log line or a terminal."""
    built: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    return built


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as exc:
        raise _invalid(str(file), f"{exc.strerror}", "create it or name another file") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise _invalid(str(file), f"it is not TOML: {exc}", "correct the syntax") from exc


def _overrides(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name, value in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX) or name.startswith(_CONTROL_PLANE_PREFIX):
            continue
        if _ENV_SEPARATOR not in name:
            continue
        group, _, field = name.removeprefix(ENV_PREFIX).lower().partition(_ENV_SEPARATOR)
        members = Settings.__struct_fields__
        if group not in members or field not in getattr(Settings(), group).__struct_fields__:
            raise _invalid(f"environment variable {name}", "there is no such setting", _HINT)
        found.setdefault(group, {})[field] = value
    return found


def _merged(raw: dict[str, Any], overrides: dict[str, dict[str, str]]) -> dict[str, Any]:
    return {
        group: {**raw.get(group, {}), **overrides.get(group, {})} for group in {*raw, *overrides}
    }


def _convert(raw: dict[str, Any], where: str, *, strict: bool) -> Settings:
    try:
        return msgspec.convert(raw, Settings, strict=strict, dec_hook=_decode_path)
    except msgspec.ValidationError as exc:
        raise _invalid(where, str(exc), _HINT) from exc


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"Expected a path, got {value!r}")


def _with_default_paths(settings: Settings, environ: Mapping[str, str], uid: int) -> Settings:
    data, run, images = _default_dirs(environ, uid)
    paths = Paths(
        data_dir=settings.paths.data_dir or data,
        run_dir=settings.paths.run_dir or run,
        image_cache_dir=settings.paths.image_cache_dir or images,
    )
    return msgspec.structs.replace(settings, paths=paths)


def _with_node_name(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """NODE_NAME is what a Pod is told of its node (downward API)."""
    name = settings.node.name or environ.get("NODE_NAME", "")
    return msgspec.structs.replace(settings, node=msgspec.structs.replace(settings.node, name=name))


def _default_dirs(environ: Mapping[str, str], uid: int) -> tuple[Path, Path, Path]:
    """FHS directories for root, the XDG base directories for anyone else."""
    if uid == 0:
        return Path("/var/lib/snapstart"), Path("/run/snapstart"), Path("/var/cache/snapstart")
    home = Path(environ.get("HOME") or "/nonexistent")
    state = Path(environ.get("XDG_STATE_HOME") or home / ".local/state")
    runtime = Path(environ.get("XDG_RUNTIME_DIR") or f"/tmp/snapstart-{uid}")
    cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    return state / "snapstart", runtime / "snapstart", cache / "snapstart"


def _check(settings: Settings, where: str) -> None:
    for path in (settings.data_dir, settings.run_dir, settings.image_cache_dir, settings.socket):
        if not path.is_absolute():
            raise _invalid(where, f"path {str(path)!r} is not absolute", "give a full path")
    for path in (settings.socket, Path(f"{settings.run_dir}{'x' * _VM_PATH_TAIL}")):
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            raise _invalid(
                where,
                f"a socket below {str(path.parent)!r} would exceed {_SOCKET_PATH_BYTES} bytes",
                "choose a shorter paths.run_dir",
            )
    _check_choice(where, "monitor.kind", settings.monitor.kind, MONITORS)
    _check_choice(where, "monitor.accel", settings.monitor.accel, ("auto", "kvm", "tcg"))
    _check_choice(where, "log.level", settings.log.level, ("debug", "info", "warning", "error"))
    _check_choice(where, "log.format", settings.log.format, ("json", "text"))
    _check_mode(where, settings.api.socket_mode)
    _check_node(where, settings.node)
    _check_kuasar(where, settings)
    _check_pager(where, settings)
    _check_numbers(settings, where)


def _check_choice(where: str, key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise _invalid(where, f"{key} is {value!r}", f"use one of {', '.join(allowed)}")


def _check_node(where: str, node: Node) -> None:
    if not node.enabled:
        return
    if not node.name:
        raise _invalid(where, "node.enabled without node.name", "set it, or $NODE_NAME")
    try:
        ipaddress.ip_network(node.pod_cidr)
    except ValueError as exc:
        raise _invalid(
            where, f"node.pod_cidr: {exc}", "give a network such as 127.88.0.0/16"
        ) from exc


def _check_kuasar(where: str, settings: Settings) -> None:
    if not settings.kuasar.enabled:
        return
    if settings.node.virtual:
        raise _invalid(
            where,
            "kuasar.enabled with node.virtual: a virtual node's Pods are no sandboxer's",
            "set one of them",
        )
    for name in ("admin_socket", "grpc_socket", "listen_socket", "cri_socket"):
        _check_socket(where, f"kuasar.{name}", getattr(settings.kuasar, name))


def _check_proxy(where: str, settings: Settings, environ: Mapping[str, str]) -> None:
    """What can be told without looking at files; which addresses are refused is the proxy's."""
    proxy = settings.proxy
    if not proxy.enabled:
        return
    if not (settings.node.enabled and settings.kuasar.enabled):
        raise _invalid(where, "proxy.enabled without what it serves", "enable node and kuasar")
    if proxy.port > 65535:
        raise _invalid(where, f"proxy.port is {proxy.port}", "give one of 1 to 65535")
    if not environ.get("POD_IP"):
        raise _invalid(where, "proxy.enabled without $POD_IP", "set it by the downward API")
    if proxy.token_file is None and not environ.get("KUASAR_PROXY_TOKEN"):
        raise _invalid(
            where,
            "proxy.enabled without a token, which would let anybody in",
            "set $KUASAR_PROXY_TOKEN or proxy.token_file",
        )
    if (proxy.certificate_file is None) != (proxy.key_file is None):
        raise _invalid(
            where, "proxy.certificate_file and proxy.key_file need each other", "set both"
        )
    if proxy.client_ca_file is not None and proxy.certificate_file is None:
        raise _invalid(
            where, "proxy.client_ca_file without proxy.certificate_file", "set all three"
        )


def _check_pager(where: str, settings: Settings) -> None:
    pager = settings.pager
    _check_choice(where, "pager.enabled", pager.enabled, ("auto", "off"))
    for name in ("journal_dir", "binary", "kuasar_dir"):
        path: Path | None = getattr(pager, name)
        if path is not None and not path.is_absolute():
            raise _invalid(where, f"pager.{name} is {str(path)!r}", "give a full path")
    for name in ("control_socket", "kuasar_socket"):
        _check_socket(where, f"pager.{name}", getattr(pager, name))
    # Its supervisor makes a socket in there.
    _check_socket(where, "pager.journal_dir", pager.journal_dir and pager.journal_dir / "notify")
    if (pager.kuasar_socket is None) != (pager.kuasar_dir is None):
        raise _invalid(
            where, "pager.kuasar_socket and pager.kuasar_dir need each other", "set both"
        )
    if pager.readers > _MOST_READERS or pager.record_forks > _MOST_RECORDS:
        most = f"at most {_MOST_READERS} readers, {_MOST_RECORDS} record_forks"
        raise _invalid(where, "pager.readers or pager.record_forks is too large", f"give {most}")


def _check_socket(where: str, key: str, path: Path | None) -> None:
    if path is None:
        return
    if not path.is_absolute() or len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        hint = f"give a full path of at most {_SOCKET_PATH_BYTES} bytes"
        raise _invalid(where, f"{key} is {str(path)!r}", hint)


def _check_mode(where: str, text: str) -> None:
    try:
        fits = 0 <= int(text, 8) <= 0o777
    except ValueError:
        fits = False
    if not fits:
        raise _invalid(where, f"api.socket_mode is {text!r}", 'use octal text such as "0660"')


# What makes no sense as 0: everything else may be, with the meaning its comment gives.
_MAY_BE_ZERO: Final = {
    ("admission", "memory_bytes"),
    ("admission", "host_reserve_bytes"),
    ("admission", "concurrent_forks"),
    ("admission", "queued_forks"),
    ("warm", "count"),
    ("monitor", "uid_base"),
    ("pager", "record_forks"),
}


def _check_numbers(settings: Settings, where: str) -> None:
    for group in settings.__struct_fields__:
        subject = getattr(settings, group)
        for field in subject.__struct_fields__:
            value = getattr(subject, field)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            low = 0 if (group, field) in _MAY_BE_ZERO else None
            if value < 0 or (low is None and value == 0) or value != value or value > 2**60:
                raise _invalid(where, f"{group}.{field} is {value!r}", "give a positive number")
    life = settings.lifetime
    if life.default_ttl_s > life.max_ttl_s or life.default_idle_timeout_s > life.max_idle_timeout_s:
        raise _invalid(where, "a default of lifetime exceeds its maximum", "raise the maximum")


def _resolved(path: Path | None) -> Path:
    if path is None:
        raise ConfigError(ErrorCode.CONFIG_INVALID, "using settings that load_settings never saw")
    return path


_HINT: Final = "`agentd config check` prints every setting with the value in force"


def _invalid(where: str, what: str, hint: str) -> ConfigError:
    message = f"reading settings from {where}: {what}"
    return ConfigError(ErrorCode.CONFIG_INVALID, message, hint=hint)
