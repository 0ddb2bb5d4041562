"""Check a bundle against itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from agentd.errors import SnapStartError
from agentd.image.files import hash_file
from bench.bundle.manifest import MANIFEST, PERCENTILES, PROMISES, SAMPLES, Manifest, is_inside
from bench.bundle.percentiles import Percentiles, summarize_groups
from bench.bundle.reading import read_manifest, read_percentiles, read_promises, read_samples
from bench.bundle.writer import list_files


def verify_bundle(directory: Path) -> list[str]:
    """What is wrong with it, one text each; empty when every byte and figure is as it says."""
    try:
        manifest = read_manifest(directory)
    except SnapStartError as exc:
        return [str(exc)]
    return [*_files(directory, manifest), *_figures(directory, manifest)]


def _files(directory: Path, manifest: Manifest) -> Iterator[str]:
    for name in (SAMPLES, PERCENTILES):
        if name not in manifest.files:
            yield f"{name}: {MANIFEST} does not list it"
    for name in sorted(set(list_files(directory)) - manifest.files.keys() - {MANIFEST}):
        yield f"{name}: {MANIFEST} does not list it"
    for name, digest in manifest.files.items():
        yield from _file(directory, name, digest)


def _file(directory: Path, name: str, digest: str) -> Iterator[str]:
    if not is_inside(name):
        yield f"{name!r}: such a path is no file of a bundle; not opened"
        return
    try:
        found = hash_file(directory.resolve() / name)
    except FileNotFoundError:
        yield f"{name}: it is missing"
    except OSError as exc:
        yield f"{name}: {exc.strerror}"
    else:
        if found != digest:
            yield f"{name}: its sha256 is {found}, {MANIFEST} says {digest}"


def _figures(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Raises nothing: a file that says nothing readable is a problem as well."""
    try:
        if PROMISES in manifest.files:
            read_promises(directory)
        wanted = summarize_groups(read_samples(directory))
        yield from compare_percentiles(read_percentiles(directory), wanted)
    except SnapStartError as exc:
        yield str(exc)


def compare_percentiles(said: Sequence[Percentiles], wanted: Sequence[Percentiles]) -> list[str]:
    """Where what is said differs from what the samples give, group by group."""
    told = {_name(one): one for one in said}
    right = {_name(one): one for one in wanted}
    problems = [f"{PERCENTILES}: {name}: it has no samples" for name in told.keys() - right.keys()]
    problems += [f"{PERCENTILES}: {name}: it is missing" for name in right.keys() - told.keys()]
    for name in told.keys() & right.keys():
        problems += _difference(name, told[name], right[name])
    if len(told) < len(said):
        problems.append(f"{PERCENTILES}: a group is there twice")
    return sorted(problems)


def _difference(name: str, said: Percentiles, right: Percentiles) -> Iterator[str]:
    for field in ("n", "failures", "min", "p50", "p95", "p99", "max"):
        if getattr(said, field) != getattr(right, field):
            yield (
                f"{PERCENTILES}: {name}: {field} is {getattr(said, field)}, "
                f"the samples give {getattr(right, field)}"
            )


def _name(one: Percentiles) -> str:
    group = (one.series, one.machine_kind, one.cache, one.unit, dict(sorted(one.dims.items())))
    return msgspec.json.encode(group).decode()
