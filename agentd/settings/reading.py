"""Read the settings: defaults, file, environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from agentd.settings.checks import check, check_proxy
from agentd.settings.groups import Paths
from agentd.settings.problems import HINT, invalid
from agentd.settings.whole import Settings

# A variable SNAPSTART_<GROUP>__<FIELD> overrides the file; names without "__" belong to others.
ENV_PREFIX: Final = "SNAPSTART_"
# The control plane's own begin the same: both programs may be given one environment.
_CONTROL_PLANE_PREFIX: Final = "SNAPSTART_CONTROLPLANE_"
_ENV_SEPARATOR: Final = "__"


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
    check(completed, where)
    check_proxy(where, completed, environ)
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
        raise invalid(str(file), f"{exc.strerror}", "create it or name another file") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise invalid(str(file), f"it is not TOML: {exc}", "correct the syntax") from exc


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
            raise invalid(f"environment variable {name}", "there is no such setting", HINT)
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
        raise invalid(where, str(exc), HINT) from exc


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
