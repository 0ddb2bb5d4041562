"""Read a bundle as somebody left it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from agentd.errors import ErrorCode, UsageError
from agentd.image.opening import opened_regular
from bench.bundle.manifest import (
    MANIFEST,
    PERCENTILES,
    PROMISES,
    SAMPLES,
    Manifest,
    Promised,
    decode_manifest,
)
from bench.bundle.percentiles import Percentiles
from bench.bundle.samples import Sample, decode_lines

T = TypeVar("T")


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds; whether it is true is `verify_bundle`'s question."""

    manifest: Manifest
    samples: list[Sample]
    percentiles: list[Percentiles]
    promises: list[Promised]


def read_bundle(directory: Path) -> Bundle:
    """Raises: UsageError that names the file which is missing, or says something else."""
    manifest = read_manifest(directory)
    return Bundle(
        manifest=manifest,
        samples=read_samples(directory),
        percentiles=read_percentiles(directory),
        promises=read_promises(directory) if PROMISES in manifest.files else [],
    )


def read_manifest(directory: Path) -> Manifest:
    """Raises: UsageError."""
    return _read(directory, MANIFEST, decode_manifest)


def read_samples(directory: Path) -> list[Sample]:
    """Raises: UsageError."""
    return _read(directory, SAMPLES, decode_lines)


def read_percentiles(directory: Path) -> list[Percentiles]:
    """As they are written there. Raises: UsageError."""
    decoder = msgspec.json.Decoder(list[Percentiles])
    return _read(directory, PERCENTILES, decoder.decode)


def read_promises(directory: Path) -> list[Promised]:
    """Raises: UsageError."""
    return _read(directory, PROMISES, msgspec.json.Decoder(list[Promised]).decode)


def _read(directory: Path, name: str, decode: Callable[[bytes], T]) -> T:
    try:
        with (
            opened_regular(directory.resolve() / name) as fd,
            open(fd, "rb", closefd=False) as file,
        ):
            return decode(file.read())
    except FileNotFoundError as exc:
        raise _unreadable(directory, f"{name} is missing", _HINTS.get(name, "")) from exc
    except OSError as exc:
        raise _unreadable(directory, f"{name}: {exc.strerror}") from exc
    except ValueError as exc:  # msgspec's errors are such
        raise _unreadable(directory, f"{name}: {exc}") from exc


_HINTS = {MANIFEST: "it is written last: this is no bundle, or one that was never finished"}


def _unreadable(directory: Path, what: str, hint: str = "") -> UsageError:
    message = f"reading the bundle {str(directory)!r}: {what}"
    return UsageError(ErrorCode.REQUEST_INVALID, message, hint=hint)
