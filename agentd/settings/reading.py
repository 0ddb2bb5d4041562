"""Read the daemon's settings: defaults, file, environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode
from agentd.settings.checks import check
from agentd.settings.whole import Settings
from agentd.typed_settings import Reading, Source, read, tell

# A variable SNAPSTART_<GROUP>__<FIELD> overrides the file; names without "__" belong to others.
ENV_PREFIX: Final = "SNAPSTART_"
# The control plane's own begin the same: both programs may be given one environment.
_CONTROL_PLANE_PREFIX: Final = "SNAPSTART_CONTROLPLANE_"
_HINT: Final = "`agentd config check` prints every setting with the value in force"


def read_settings(
    file: Path | None, environ: Mapping[str, str], *, uid: int | None = None
) -> Reading[Settings]:
    """Read, complete, check the settings; what is wrong with them is returned.

    Args: file: TOML, None for defaults alone. environ: overrides. uid: whose default paths
    apply; None takes this process's.
    """
    source = Source(
        Settings,
        ENV_PREFIX,
        _HINT,
        foreign=(_CONTROL_PLANE_PREFIX,),
        places=_default_dirs(environ, os.geteuid() if uid is None else uid),
        # NODE_NAME is what a Pod is told of its node (downward API).
        fallbacks={"node.name": "NODE_NAME"},
    )
    reading = read(source, file, environ)
    return reading.checked(check(reading.settings, environ))


def load_settings(
    file: Path | None, environ: Mapping[str, str], *, uid: int | None = None
) -> Settings:
    """The settings, if they can be used.

    Raises: ConfigError with every problem: the file or the variable, the key, what to do.
    """
    reading = read_settings(file, environ, uid=uid)
    if reading.problems:
        raise ConfigError(ErrorCode.CONFIG_INVALID, "; ".join(map(tell, reading.problems)))
    return reading.settings


def _default_dirs(environ: Mapping[str, str], uid: int) -> dict[str, Path]:
    """FHS directories for root, the XDG base directories for anyone else."""
    names = ("data_dir", "run_dir", "image_cache_dir")
    places = _root_dirs() if uid == 0 else _user_dirs(environ, uid)
    return {f"paths.{name}": place for name, place in zip(names, places, strict=True)}


def _root_dirs() -> tuple[Path, Path, Path]:
    return Path("/var/lib/snapstart"), Path("/run/snapstart"), Path("/var/cache/snapstart")


def _user_dirs(environ: Mapping[str, str], uid: int) -> tuple[Path, Path, Path]:
    home = Path(environ.get("HOME") or "/nonexistent")
    state = Path(environ.get("XDG_STATE_HOME") or home / ".local/state")
    runtime = Path(environ.get("XDG_RUNTIME_DIR") or f"/tmp/snapstart-{uid}")
    cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    return state / "snapstart", runtime / "snapstart", cache / "snapstart"
