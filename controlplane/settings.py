"""Read the control plane's settings once, at start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from agentd.tracing import check_endpoint
from agentd.typed_settings import Finding, Group, Reading, Source, describe, read, tell
from controlplane.errors import ConfigError

__all__ = ["Settings", "describe", "load_settings", "read_settings"]

# SNAPSTART_CONTROLPLANE_<GROUP>__<FIELD> overrides the file. The store's own variables
# (STORE_TYPE, REDIS_ADDR, VALKEY_ADDR and so on) are read by controlplane.store.config.
ENV_PREFIX: Final = "SNAPSTART_CONTROLPLANE_"
_HINT: Final = "run `snapstart-controlplane config check` to see every setting"


class Program(Group, frozen=True):
    """Who this program is."""

    # Where its own Secret and Leases are; POD_NAMESPACE, if that is set.
    namespace: str = "agentcube-system"
    # Unique to the process: the holder of the Lease. Empty: POD_NAME, else host name with pid.
    identity: str = ""
    # User names of this program, and of whoever else may make build Sandboxes and tasks.
    users: tuple[str, ...] = ("system:serviceaccount:agentcube-system:snapstart-controlplane",)


class Kube(Group, frozen=True):
    """The API server. Both empty: $KUBECONFIG, else the service account, else ~/.kube/config."""

    # Path; empty takes $KUBECONFIG, else the service account of a Pod, else ~/.kube/config.
    kubeconfig: str = ""
    # Of the kubeconfig; empty takes its current one.
    context: str = ""


class Leader(Group, frozen=True):
    """One replica of many runs the controllers; seconds as in LeaseTiming."""

    # Name of the Lease.
    lease: str = "snapstart-controlplane"
    # Others may lead so long after the last renewal.
    duration_s: int = 15
    # A leader that cannot renew stops after this.
    deadline_s: float = 10.0
    # Between renewals, or attempts.
    retry_s: float = 2.0


class Store(Group, frozen=True):
    """The artifact store, if it is none of the environment's."""

    # A file, for a control plane of one machine.
    sqlite_path: Path | None = None


class Snapshots(Group, frozen=True):
    """What of the snapshot controller's numbers an operator may want otherwise; seconds."""

    # From the record of a build attempt to its end; above the agents' own 10 min for one create.
    build_s: float = 900.0
    # A node may be NotReady so long before its artifacts stop counting.
    node_grace_s: float = 60.0
    # Until a retired artifact is deleted: sessions made with its key can still start.
    retired_grace_s: float = 900.0
    # The same when the snapshot itself is deleted: the longest wait of a session for its start.
    deletion_grace_s: float = 120.0
    # A finished task stays so long for people to look at.
    task_retention_s: float = 60.0
    # Annotations of a template's Pods that builds keep, by prefix; labels they all keep.
    build_annotation_prefixes: tuple[str, ...] = ()


class Templates(Group, frozen=True):
    """The CodeInterpreter to SandboxTemplate controller."""

    # Keep a SandboxTemplate for each CodeInterpreter.
    enabled: bool = True
    # Of AgentCube's router, whose public key templates carry. Empty: program.namespace.
    router_namespace: str = ""


class Webhooks(Group, frozen=True):
    """Admission, and the HTTP endpoint for restore intents."""

    # Off: sessions start cold.
    enabled: bool = True
    # Empty: all addresses.
    host: str = ""
    # With TLS.
    port: int = 8443
    # The Service that API servers call; names in the certificate derive from it.
    service: str = "snapstart-controlplane"
    # More names or addresses in the certificate, for API servers that call us by a URL.
    dns_names: tuple[str, ...] = ()
    # Our own certificates. Not used with certificate_dir.
    secret: str = "snapstart-webhook-certificates"
    # tls.crt and tls.key that somebody else renews, such as cert-manager.
    certificate_dir: Path | None = None
    # Name of both webhook configurations; their CA is filled in.
    configuration: str = "snapstart"
    # User names that may ask for a restore intent over HTTP; none: the endpoint is off.
    intent_callers: tuple[str, ...] = ()
    # What their tokens must be for; empty: the API server's own audience.
    intent_audience: str = ""


class Http(Group, frozen=True):
    """Health and metrics, without TLS, without secrets."""

    # Empty: all addresses.
    host: str = ""
    # Without TLS.
    port: int = 8080


class Tracing(Group, frozen=True):
    """Traces of starts and builds, for OpenTelemetry. Needs the packages of the extra `otel`."""

    # Where a collector takes OTLP by HTTP, such as http://127.0.0.1:4318; empty: no traces.
    endpoint: str = ""


class Log(Group, frozen=True):
    """What is written to standard error."""

    # debug, info, warning or error.
    level: str = "info"
    # json for machines, text for people.
    format: str = "json"


class Settings(Group, frozen=True):
    """Everything an operator may decide. Nothing in here is secret."""

    program: Program = Program()
    kube: Kube = Kube()
    leader: Leader = Leader()
    store: Store = Store()
    snapshots: Snapshots = Snapshots()
    templates: Templates = Templates()
    webhooks: Webhooks = Webhooks()
    http: Http = Http()
    tracing: Tracing = Tracing()
    log: Log = Log()


def read_settings(file: Path | None, environ: Mapping[str, str]) -> Reading[Settings]:
    """Read, complete, check the settings; what is wrong with them is returned.

    Args: file: TOML, None for defaults alone. environ: overrides; POD_NAMESPACE, POD_NAME fill in
    for what is not set. Lists are comma-separated there.
    """
    fallbacks = {"program.namespace": "POD_NAMESPACE", "program.identity": "POD_NAME"}
    source = Source(Settings, ENV_PREFIX, _HINT, fallbacks=fallbacks)
    reading = read(source, file, environ)
    return reading.checked(_check(reading.settings))


def load_settings(file: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings, if they can be used.

    Raises: ConfigError with every problem: the file or the variable, the key, what to do.
    """
    reading = read_settings(file, environ)
    if reading.problems:
        raise ConfigError("; ".join(map(tell, reading.problems)))
    return reading.settings


def _check(settings: Settings) -> Iterator[Finding]:
    leader = settings.leader
    if not 0 < leader.retry_s < leader.deadline_s < leader.duration_s:
        keys = ("leader.duration_s", "leader.deadline_s", "leader.retry_s")
        yield Finding(keys, "leader: retry_s < deadline_s < duration_s does not hold", _HINT)
    for name in ("build_s", "node_grace_s", "retired_grace_s", "deletion_grace_s"):
        if getattr(settings.snapshots, name) < 0:
            yield Finding((f"snapshots.{name}",), f"snapshots.{name} is negative", "give seconds")
    endpoint = settings.tracing.endpoint
    if endpoint and (why := check_endpoint(endpoint)):
        hint = "give a URL such as http://127.0.0.1:4318"
        yield Finding(("tracing.endpoint",), f"tracing.endpoint is {endpoint!r}: {why}", hint)
    log = settings.log
    if log.level not in ("debug", "info", "warning", "error"):
        hint = "use one of debug, info, warning, error"
        yield Finding(("log.level",), f"log.level is {log.level!r}", hint)
    if log.format not in ("json", "text"):
        yield Finding(("log.format",), f"log.format is {log.format!r}", "use one of json, text")
