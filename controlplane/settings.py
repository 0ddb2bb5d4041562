"""Read the control plane's settings once, at start."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from controlplane.errors import ConfigError

# SNAPSTART_CONTROLPLANE_<GROUP>__<FIELD> overrides the file. The store's own variables
# (STORE_TYPE, REDIS_ADDR, VALKEY_ADDR and so on) are read by controlplane.store.config.
ENV_PREFIX: Final = "SNAPSTART_CONTROLPLANE_"
_SEPARATOR: Final = "__"
_HINT: Final = "run `snapstart-controlplane config check` to see every setting"


class _Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of one subject: a misspelt key is refused, never ignored."""


class Program(_Group, frozen=True):
    """Who this program is."""

    # Where its own Secret and Leases are; POD_NAMESPACE, if that is set.
    namespace: str = "agentcube-system"
    # Unique to the process: the holder of the Lease. Empty: POD_NAME, else host name with pid.
    identity: str = ""
    # User names of this program, and of whoever else may make build Sandboxes and tasks.
    users: tuple[str, ...] = ("system:serviceaccount:agentcube-system:snapstart-controlplane",)


class Kube(_Group, frozen=True):
    """The API server. Both empty: $KUBECONFIG, else the service account, else ~/.kube/config."""

    kubeconfig: str = ""
    context: str = ""


class Leader(_Group, frozen=True):
    """One replica of many runs the controllers; seconds as in LeaseTiming."""

    lease: str = "snapstart-controlplane"
    duration_s: int = 15
    deadline_s: float = 10.0
    retry_s: float = 2.0


class Store(_Group, frozen=True):
    """The artifact store, if it is none of the environment's."""

    # A file, for a control plane of one machine.
    sqlite_path: Path | None = None


class Snapshots(_Group, frozen=True):
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


class Templates(_Group, frozen=True):
    """The CodeInterpreter to SandboxTemplate controller."""

    enabled: bool = True
    # Of AgentCube's router, whose public key templates carry. Empty: program.namespace.
    router_namespace: str = ""


class Webhooks(_Group, frozen=True):
    """Admission, and the HTTP endpoint for restore intents."""

    enabled: bool = True
    # Empty: all addresses.
    host: str = ""
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


class Http(_Group, frozen=True):
    """Health and metrics, without TLS, without secrets."""

    host: str = ""
    port: int = 8080


class Log(_Group, frozen=True):
    """What is written to standard error."""

    # debug, info, warning or error.
    level: str = "info"
    # json for machines, text for people.
    format: str = "json"


class Settings(_Group, frozen=True):
    """Everything an operator may decide. Nothing in here is secret."""

    program: Program = Program()
    kube: Kube = Kube()
    leader: Leader = Leader()
    store: Store = Store()
    snapshots: Snapshots = Snapshots()
    templates: Templates = Templates()
    webhooks: Webhooks = Webhooks()
    http: Http = Http()
    log: Log = Log()


def load_settings(file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read, complete, validate the settings.

    Args: file: TOML, None for defaults alone. environ: overrides; POD_NAMESPACE, POD_NAME fill in.
    Lists are comma-separated there.
    Raises: ConfigError naming the file or the variable, with the key.
    """
    raw = {} if file is None else _read_toml(file)
    where = "the defaults" if file is None else str(file)
    _convert(raw, where, strict=True)
    merged = _merged(_from_pod(environ), raw, _overrides(environ))
    settings = _convert(merged, f"{where} with the environment", strict=False)
    _check(settings)
    return settings


def describe(settings: Settings) -> dict[str, Any]:
    """The settings in force, as plain values for a log line or a terminal."""
    built: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    return built


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as exc:
        raise ConfigError(f"read {file}: {exc.strerror}", hint="name another file") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"read {file}: it is not TOML: {exc}", hint="correct it") from exc


def _from_pod(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found = {"namespace": environ.get("POD_NAMESPACE"), "identity": environ.get("POD_NAME")}
    return {"program": {name: value for name, value in found.items() if value}}


def _overrides(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX) or _SEPARATOR not in name:
            continue
        group, _, field = name.removeprefix(ENV_PREFIX).lower().partition(_SEPARATOR)
        known = getattr(Settings(), group, None) if group in Settings.__struct_fields__ else None
        if known is None or field not in known.__struct_fields__:
            raise ConfigError(f"environment variable {name}: there is no such setting", hint=_HINT)
        is_list = isinstance(getattr(known, field), tuple)
        found.setdefault(group, {})[field] = _split(value) if is_list else value
    return found


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _merged(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    groups = {group for layer in layers for group in layer}
    return {
        group: {key: value for layer in layers for key, value in layer.get(group, {}).items()}
        for group in groups
    }


def _convert(raw: Mapping[str, Any], where: str, *, strict: bool) -> Settings:
    try:
        return msgspec.convert(dict(raw), Settings, strict=strict, dec_hook=_decode_path)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"read the settings from {where}: {exc}", hint=_HINT) from exc


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"Expected a path, got {value!r}")


def _check(settings: Settings) -> None:
    leader = settings.leader
    if not 0 < leader.retry_s < leader.deadline_s < leader.duration_s:
        raise ConfigError("leader: retry_s < deadline_s < duration_s does not hold", hint=_HINT)
    for name in ("build_s", "node_grace_s", "retired_grace_s", "deletion_grace_s"):
        if getattr(settings.snapshots, name) < 0:
            raise ConfigError(f"snapshots.{name} is negative", hint=_HINT)
    if settings.log.level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"log.level is {settings.log.level!r}", hint=_HINT)
    if settings.log.format not in ("json", "text"):
        raise ConfigError(f"log.format is {settings.log.format!r}", hint=_HINT)
