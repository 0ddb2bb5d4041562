"""Judge the settings of a node's sandboxer: no socket tells them, and some make forks useless.

Read is what the sandboxer's file says now; one that was not restarted since may do otherwise.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from agentd.errors import ConfigError, ErrorCode
from agentd.kuasar.client import Form

# What the control plane sets on a session's Pod; a sandboxer heeds it only when told so.
SNAPSHOT_KEY: Final = "agentcube.volcano.sh/snapshot-key"
# Where a Cloud Hypervisor looks for a page server; not a setting of the sandboxer's.
UFFD_SOCKET: Final = Path("/tmp/uffd.sock")
_FORK_STORAGE: Final = "virtio-blk"
_READ: Final = "reading the sandboxer's settings"


class Level(enum.StrEnum):
    """How bad it is: nothing, less works, forks do not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """A verdict on one setting. key: as in the file, without its table. hint: what to change."""

    key: str
    level: Level
    detail: str
    hint: str = ""


# -- what is read; a default is what the sandboxer takes when the key is absent --------------------


class Resolver(msgspec.Struct, frozen=True):
    """An annotation of Pods whose value is taken for a snapshot's key."""

    snapshot_key_annotation: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """Table sandbox.snapshot. annotation_resolvers: None is absent."""

    enable_environment_restore: bool = False
    enable_warmfork_restore: bool = False
    fallback_to_fresh_boot: bool = True
    default_memory_restore_mode: str = "copy"
    annotation_resolvers: list[Resolver] | None = None


class Sandbox(msgspec.Struct, frozen=True):
    """Table sandbox."""

    snapshot: Snapshot = Snapshot()


class WarmFork(msgspec.Struct, frozen=True):
    """Table template_pool.warmfork."""

    max_per_key: int = 10
    lease_mode: str = "shared"


class TemplatePool(msgspec.Struct, frozen=True):
    """Table template_pool. gc_watermark: templates."""

    store_dir: str = ""
    gc_watermark: int = 50
    warmfork: WarmFork = WarmFork()


class Hypervisor(msgspec.Struct, frozen=True):
    """Table hypervisor."""

    container_storage_backend: str = "virtiofs"


class NodeConfig(msgspec.Struct, frozen=True):
    """What is of interest here; other keys are left alone. template_pool: None is absent."""

    sandbox: Sandbox = Sandbox()
    template_pool: TemplatePool | None = None
    hypervisor: Hypervisor = Hypervisor()


def read_node_config(path: Path) -> NodeConfig:
    """Read a sandboxer's file. Raises: ConfigError CONFIG_INVALID."""
    try:
        return parse_node_config(path.read_bytes(), str(path))
    except OSError as exc:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"{_READ} from {str(path)!r}: {exc.strerror or exc}",
            hint="let kuasar.config_file name the file of its -c; in a container, mount it",
        ) from exc


def parse_node_config(raw: bytes, where: str) -> NodeConfig:
    """Take settings from TOML. Raises: ConfigError CONFIG_INVALID; where: for its message."""
    try:
        document: dict[str, Any] = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as exc:
        raise _unusable(where, f"it is not TOML: {exc}") from exc
    try:
        return msgspec.convert(document, NodeConfig)
    except msgspec.ValidationError as exc:
        raise _unusable(where, str(exc)) from exc


def _unusable(where: str, why: str) -> ConfigError:
    return ConfigError(
        ErrorCode.CONFIG_INVALID,
        f"{_READ} from {where!r}: {why}",
        hint="correct it: the sandboxer will not start with it either",
    )


# -- decisions ------------------------------------------------------------------------------------


def find_warnings(path: Path, form: Form | None) -> list[Finding]:
    """What is to be changed in a sandboxer's file, or why that cannot be told. Never raises."""
    try:
        found = judge_node_config(read_node_config(path), form)
    except ConfigError as exc:
        return [Finding("config_file", Level.WARN, exc.message, exc.hint)]
    return [one for one in found if one.level is not Level.OK]


def judge_node_config(config: NodeConfig, form: Form | None) -> list[Finding]:
    """A verdict on each setting that decides what forks are worth. form: None is unknown."""
    return [
        _restore(config.sandbox.snapshot),
        _storage(config.hypervisor),
        *_pool(config.template_pool),
        _fallback(config.sandbox.snapshot),
        _resolver(config.sandbox.snapshot, form),
        _memory(config.sandbox.snapshot),
    ]


def _restore(snapshot: Snapshot) -> Finding:
    key = "enable_warmfork_restore"
    if snapshot.enable_warmfork_restore:
        return Finding(key, Level.OK, "snapshots are restored")
    detail = "snapshots are made, but never restored: every session starts cold"
    return Finding(key, Level.FAIL, detail, f"set [sandbox.snapshot] {key} = true")


def _storage(hypervisor: Hypervisor) -> Finding:
    key, found = "container_storage_backend", hypervisor.container_storage_backend
    if found == _FORK_STORAGE:
        return Finding(key, Level.OK, found)
    detail = f"{found!r}: no snapshot can be made"
    return Finding(key, Level.FAIL, detail, f'set [hypervisor] {key} = "{_FORK_STORAGE}"')


def _pool(pool: TemplatePool | None) -> Iterator[Finding]:
    if pool is None or not pool.store_dir:
        detail = "there is no [template_pool]" if pool is None else "it has no store_dir"
        hint = "set [template_pool] store_dir: without it no snapshot is kept"
        yield Finding("template_pool", Level.FAIL, detail, hint)
        return
    yield Finding("template_pool", Level.OK, pool.store_dir)
    yield _lease(pool.warmfork.lease_mode)
    yield _depth(pool.warmfork.max_per_key)


def _lease(found: str) -> Finding:
    key = "lease_mode"
    hint = f'set [template_pool.warmfork] {key} = "shared"'
    if found == "shared":
        return Finding(key, Level.OK, found)
    if found == "exclusive":
        detail = "'exclusive': a snapshot serves one session, then is gone"
        return Finding(key, Level.WARN, detail, hint)
    return Finding(key, Level.FAIL, f"{found!r} is no mode of leases", hint)


def _depth(found: int) -> Finding:
    key = "max_per_key"
    if found >= 2:
        return Finding(key, Level.OK, str(found))
    detail = f"{found}: while a snapshot is in use, a second one of its key is refused"
    return Finding(key, Level.WARN, detail, f"set [template_pool.warmfork] {key} to 2 or more")


def _fallback(snapshot: Snapshot) -> Finding:
    """Both values have a price; told is the one that is paid."""
    key = "fallback_to_fresh_boot"
    if snapshot.fallback_to_fresh_boot:
        detail = "true: a session that misses its snapshot boots cold, and nothing says so"
        hint = (
            "read agentd's restore evidence (events, metrics); let the workload notice that it "
            "was not restored"
        )
        return Finding(key, Level.WARN, detail, hint)
    detail = "false: Pods without a matching template fail, and so do build Pods"
    hint = f"set [sandbox.snapshot] {key} = true"
    if snapshot.enable_environment_restore:
        hint += ", or keep environment templates of this node's machines pooled"
    return Finding(key, Level.WARN, detail, hint)


def _resolver(snapshot: Snapshot, form: Form | None) -> Finding:
    key, resolvers = "annotation_resolvers", snapshot.annotation_resolvers
    if form is Form.JSON:
        if resolvers is None:
            return Finding(key, Level.OK, "none; the JSON form knows none")
        detail = "the JSON form knows no such key: its sandboxer will not start again"
        return Finding(key, Level.FAIL, detail, f"remove [[sandbox.snapshot.{key}]]")
    if any(one.snapshot_key_annotation == SNAPSHOT_KEY for one in resolvers or ()):
        return Finding(key, Level.OK, SNAPSHOT_KEY)
    detail = (
        f"none for {SNAPSHOT_KEY}: Pods that carry it, but no kuasar.io/template-key beside it, "
        "start cold"
    )
    hint = f'add [[sandbox.snapshot.{key}]] snapshot_key_annotation = "{SNAPSHOT_KEY}"'
    if form is None:
        hint += ", if the sandboxer is of the gRPC form"
    return Finding(key, Level.WARN, detail, hint)


def _memory(snapshot: Snapshot) -> Finding:
    key, found = "default_memory_restore_mode", snapshot.default_memory_restore_mode
    lazy = f'set [sandbox.snapshot] {key} = "ondemand"'
    match found.lower():
        case "ondemand":
            return Finding(key, Level.OK, found)
        case "copy":
            detail = f"{found!r}: each restore first reads all of the guest's memory"
            return Finding(key, Level.WARN, detail, lazy)
        case "filebackend":
            detail = f"{found!r}: needs a patched hypervisor, also when the snapshot was made"
            return Finding(key, Level.WARN, detail, f"if it is not, {lazy}")
        case "externaluffd":
            detail = (
                f"{found!r}: needs a patched hypervisor, also when the snapshot was made; restores "
                f"fail unless a page server listens on {UFFD_SOCKET}"
            )
            hint = f"have it started before the sandboxer, or {lazy}"
            return Finding(key, Level.WARN, detail, hint)
        case _:
            return Finding(key, Level.FAIL, f"{found!r} is no such mode", lazy)
