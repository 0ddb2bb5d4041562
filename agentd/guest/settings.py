"""Gather what the runtime is told by its image, its environment, the kernel command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_INJECT_SOCKET = "/run/warmfork-readiness.sock"
GATE_VARIABLES = ("AGENTCUBE_SESSION_GATE", "AGENTCUBE_SNAPSTART_BUILD")
SOCKET_VARIABLES = ("AGENTCUBE_INJECT_SOCKET_PATH", "WARMFORK_READINESS_SOCKET")
KEY_VARIABLE = "PICOD_AUTH_PUBLIC_KEY"
_TRUE = frozenset({"1", "true", "yes", "on"})


class SettingsError(ValueError):
    """A setting cannot be used; the message names where it came from."""


@dataclass(frozen=True)
class Settings:
    """Everything the runtime can be told; paths are absolute, so tests can move each root."""

    is_vm: bool = False
    is_gated: bool = False
    version: str = "0"
    checkpoint: str = "InterpreterReady"
    preload: tuple[str, ...] = ()
    workspace: str = "/workspace"
    uid: int | None = None
    gid: int | None = None
    max_processes: int = 256
    inject_socket: str = DEFAULT_INJECT_SOCKET
    http_host: str = ""
    http_port: int = 8080
    auth_key: str = ""
    session_file: str = "/run/snapstart/session.json"
    file_roots: tuple[str, ...] = ("/tmp", "/var/tmp", "/home", "/root", "/run", "/dev/shm")
    cgroup: str = ""
    http_cgroup: str = ""
    proc: str = "/proc"
    environment: Mapping[str, str] = field(default_factory=dict)


def load_image_file(path: str) -> dict[str, object]:
    """The members of runtime.json; empty when the image has none. Raises SettingsError."""
    try:
        loaded = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise SettingsError(f"reading {path!r} failed: {exc}") from exc
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path!r} does not hold a JSON object")
    return loaded


def vm_settings(image: Mapping[str, object]) -> Settings:
    """Settings of PID 1 in a VM of ours: the gate starts closed, user code is unprivileged."""
    return Settings(
        is_vm=True,
        is_gated=True,
        version=_text(image, "version", "0"),
        preload=_texts(image, "preload"),
        workspace=_text(image, "workspace", "/workspace"),
        uid=_count(image, "uid", 1000),
        gid=_count(image, "gid", 1000),
        max_processes=_count(image, "max_processes", 256),
        inject_socket="",  # a VM's host comes over the channel; taking the socket away takes time
        cgroup="/sys/fs/cgroup/session",
        http_cgroup="/sys/fs/cgroup/http",
        auth_key=_text(image, "auth_public_key", ""),
    )


def container_settings(
    image: Mapping[str, object], environment: Mapping[str, str], *, is_root: bool
) -> Settings:
    """Settings of a container's entry point; without a gate variable the gate is open.

    Args: is_root: whether user code can be given an unprivileged user of its own.
    """
    unprivileged = _count(image, "uid", 1000) if is_root else None
    return Settings(
        is_gated=any(environment.get(name, "").lower() in _TRUE for name in GATE_VARIABLES),
        version=_text(image, "version", "0"),
        preload=_texts(image, "preload"),
        workspace=environment.get("SNAPSTART_WORKSPACE") or _text(image, "workspace", "/workspace"),
        uid=unprivileged,
        gid=_count(image, "gid", 1000) if is_root else None,
        max_processes=_count(image, "max_processes", 256),
        inject_socket=next(
            (environment[name] for name in SOCKET_VARIABLES if environment.get(name)),
            DEFAULT_INJECT_SOCKET,
        ),
        http_host="0.0.0.0",
        auth_key=environment.get(KEY_VARIABLE, ""),
        session_file="",
    )


def clean_environment(environment: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """What user code starts with: no switches of ours, no key, a home it can write to."""
    hidden = {*GATE_VARIABLES, *SOCKET_VARIABLES, KEY_VARIABLE}
    kept = {name: text for name, text in environment.items() if name not in hidden}
    kept.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
    kept.setdefault("LANG", "C.UTF-8")
    kept.setdefault("MPLBACKEND", "Agg")
    kept["HOME"] = settings.workspace
    kept["USER"] = kept["LOGNAME"] = "user" if settings.uid is not None else str(os.getuid())
    return kept


def _text(image: Mapping[str, object], name: str, default: str) -> str:
    value = image.get(name, default)
    if not isinstance(value, str):
        raise SettingsError(f"runtime.json member {name!r} is not text")
    return value


def _texts(image: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = image.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SettingsError(f"runtime.json member {name!r} is not a list of text")
    return tuple(value)


def _count(image: Mapping[str, object], name: str, default: int) -> int:
    value = image.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SettingsError(f"runtime.json member {name!r} is not a whole number")
    return value
