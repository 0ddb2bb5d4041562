"""Read kubeconfig files into one that stands alone.

kubernetes-asyncio understands kubeconfig, but it writes inline keys to files that stay until the
process ends, and leaves their descriptors open. So inline data is put into a directory of the
caller's before, which can be removed as soon as the TLS context is made.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Any, Final

import msgspec

from controlplane.errors import ConfigError

_FILES: Final = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key"),
}


def read_kubeconfig(paths: str, directory: Path) -> dict[str, Any]:
    """Merge files as kubectl does: the first that names something wins.

    Args: paths: separated by ":"; missing ones are skipped. directory: receives inline data, each
    in a file that only this user can read.
    Returns: a kubeconfig without inline data or relative paths.
    Raises: ConfigError.
    """
    found = [_read(Path(part)) for part in paths.split(":") if part and Path(part).is_file()]
    if not found:
        raise ConfigError(f"no kubeconfig at {paths!r}", hint="set the path, or run in a cluster")
    merged: dict[str, Any] = {"apiVersion": "v1", "kind": "Config"}
    for base, document in found:
        current = document.get("current-context")
        if current:
            merged.setdefault("current-context", current)
        for plural in ("clusters", "users", "contexts"):
            _merge_named(merged.setdefault(plural, []), document.get(plural) or [], base, directory)
    return merged


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    try:
        document = msgspec.yaml.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as exc:
        raise ConfigError(f"cannot read kubeconfig {path}: {exc}") from exc
    return path.absolute().parent, document


def _merge_named(into: list[Any], entries: list[Any], base: Path, directory: Path) -> None:
    names = {entry["name"] for entry in into}
    for entry in entries:
        if not isinstance(entry, dict) or not entry.get("name"):
            raise ConfigError(f"kubeconfig below {base} has an entry without a name")
        if entry["name"] not in names:
            into.append(_standing_alone(entry, base, directory))
            names.add(entry["name"])


def _standing_alone(entry: dict[str, Any], base: Path, directory: Path) -> dict[str, Any]:
    result = dict(entry)
    for section, members in _FILES.items():
        if isinstance(entry.get(section), dict):
            result[section] = _with_files(entry[section], members, base, directory)
    user = result.get("user")
    if isinstance(user, dict) and user.get("tokenFile"):
        user["tokenFile"] = str(base / user["tokenFile"])
    return result


def _with_files(
    section: dict[str, Any], members: tuple[str, ...], base: Path, directory: Path
) -> dict[str, Any]:
    result = dict(section)
    for member in members:
        inline = result.pop(f"{member}-data", None)
        if inline:
            result[member] = _write(inline, directory, member)
        elif result.get(member):
            result[member] = str(base / result[member])
    return result


def _write(inline: str, directory: Path, member: str) -> str:
    try:
        data = base64.b64decode(inline, validate=True)
    except (binascii.Error, ValueError, TypeError) as exc:
        raise ConfigError(f"kubeconfig: {member}-data is not base64: {exc}") from exc
    path = directory / f"{len(os.listdir(directory))}.pem"
    path.touch(mode=0o600)
    path.write_bytes(data)
    return str(path)
