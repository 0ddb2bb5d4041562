"""Define what a bundle says of itself."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

import msgspec

from agentd.wire.demo import Machine

SCHEMA: Final = 1
MANIFEST: Final = "bundle.json"
SAMPLES: Final = "samples.jsonl"
PERCENTILES: Final = "percentiles.json"
PROMISES: Final = "promises.json"


class Promised(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit, what was measured of it, whether it is kept; the texts are for people."""

    name: str
    promised: str
    measured: str
    is_kept: bool


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where samples come from. made_at: when the run began. commit: empty when not known.

    versions: of snapstart, python, kernel, QEMU, whatever else took part. steal_share: of all
    processor time of the run, what the host took away. files: sha256 of each other file, by path.
    """

    schema: int = SCHEMA
    made_at: str
    took_s: float
    command: str
    commit: str
    is_dirty: bool
    machine: Machine
    versions: dict[str, str]
    steal_share: float
    files: dict[str, str]


class _Schema(msgspec.Struct):
    schema: int


def decode_manifest(raw: bytes) -> Manifest:
    """Raises: ValueError that says what is wrong."""
    try:
        if (found := msgspec.json.decode(raw, type=_Schema).schema) != SCHEMA:
            raise ValueError(f"schema {found} is unknown, this program reads {SCHEMA}")
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ValueError(str(exc)) from exc


def is_inside(name: str) -> bool:
    """Whether a path leads to a file of the bundle, spelt in the one plain way."""
    path = PurePosixPath(name)
    is_plain = str(path) == name and name != "." and "\0" not in name
    return is_plain and not path.is_absolute() and ".." not in path.parts
