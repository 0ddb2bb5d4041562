"""Make what is measured: images, traces, working sets recorded by the page server itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.pager.files import Image, write_data, write_image, write_trace
from bench.pager.programs import build_working_set
from bench.pager.stand import Stand, Way, start_together
from bench.pager.workload import (
    Workload,
    plan_recordings,
    plan_single_faults,
    plan_workload,
)

SEED: Final = 1
COVERAGES: Final = (1.0, 0.9, 0.7)
SINGLE_FAULTS: Final = 3_000
RECORDINGS: Final = 3


@dataclass(frozen=True)
class WorkingSet:
    """What the page server made of its records of an image. report: what it says of it."""

    path: Path
    report: dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """The files. trace: the working set's; single: faults that do not help each other.

    dense: as a monitor writes its memory, zeros too; sparse: zeros are holes.
    """

    dense: Image
    sparse: Image
    trace: Path
    single: Path
    empty: Path
    data: Path
    sets: Mapping[float, WorkingSet]  # by coverage
    sparse_set: WorkingSet


@contextmanager
def prepare(stand: Stand, directory: Path) -> Iterator[Setting]:
    """Everything in a directory; the caller removes it."""
    workload = plan_workload(SEED)
    dense = write_image(directory / "dense", workload, is_sparse=False)
    try:
        sparse = write_image(directory / "sparse", workload, is_sparse=True)
        try:
            yield _write(stand, directory, workload, dense, sparse)
        finally:
            os.close(sparse.memfd)
    finally:
        os.close(dense.memfd)


def _write(
    stand: Stand, directory: Path, workload: Workload, dense: Image, sparse: Image
) -> Setting:
    trace = write_trace(directory / "trace", workload.touches, workload)
    single = plan_single_faults(workload, SINGLE_FAULTS, SEED)
    stand.learn(dense, trace)
    return Setting(
        dense=dense,
        sparse=sparse,
        trace=trace,
        single=write_trace(directory / "single", single, workload),
        empty=write_trace(directory / "empty", [], workload),
        data=write_data(directory / "data", dense.path, workload),
        sets={share: _record(stand, workload, dense, share) for share in COVERAGES},
        sparse_set=_record(stand, workload, sparse, 1.0),
    )


def _record(stand: Stand, workload: Workload, image: Image, coverage: float) -> WorkingSet:
    """Have the page server record what some forks touch, make a working set of it."""
    path = image.path.with_name(f"{image.path.name}-{coverage:.0%}.set")
    records = []
    for number, touches in enumerate(plan_recordings(workload, coverage, RECORDINGS, SEED)):
        records.append(path.with_suffix(f".record-{number}"))
        trace = write_trace(path.with_suffix(f".trace-{number}"), touches, workload)
        _record_one(stand, image, trace, records[-1])
    return WorkingSet(path, build_working_set(image.path, image.digest, records, path))


def _record_one(stand: Stand, image: Image, trace: Path, record: Path) -> None:
    way = Way("recording", "uffd", image, "ours", record=record)
    with stand.machine(way, trace) as machine:
        start_together([machine.vm])
        stand.service.call("end_recording", vm=machine.name)
