"""Bundles to report on: made-up figures of the series that the suites measure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from bench.bundle import BundleWriter, MachineKind, Promised, Sample

STAGES = {"spawn": 40.0, "load": 70.0, "resume": 75.0, "inject": 90.0, "first_reply": 160.0}
PROMISES = (
    Promised(name="fork / bare fork", promised="<= 1.10", measured="1.043", is_kept=True),
    Promised(name="agentd resident", promised="< 80 MiB", measured="91.2 MiB", is_kept=False),
)


def sample(
    series: str,
    value: float | None,
    number: int = 0,
    *,
    unit: str = "ms",
    kind: MachineKind = "qemu",
    error: str = "the machine did not start",
    **dims: str,
) -> Sample:
    return Sample(
        series=series,
        machine_kind=kind,
        cache="warm",
        unit=unit,
        value=value,
        error=error if value is None else None,
        round=number,
        at_s=float(number),
        dims=dims,
    )


def usual(factor: float = 1.0) -> Iterator[Sample]:
    """A run of every kind of series, with a failure."""
    draw = random.Random(7)
    for number in range(30):
        spread = factor * draw.uniform(0.9, 1.3)
        yield sample("fork", 160 * spread, number, request="numpy")
        yield sample("fork.bare", 150 * spread, number, request="numpy")
        yield sample("cold", 3000 * spread, number, request="numpy")
        for stage, end in STAGES.items():
            yield sample("fork.stage", end * spread, number, stage=stage)
    yield sample("fork", None, 30, request="numpy")
    for at_once, took in ((1, 160), (8, 640), (32, 2500)):
        for number in range(3):
            yield sample("fan_out", took * factor + number, number, together=str(at_once))
            yield sample("fan_out.bare", took * 0.95 + number, number, together=str(at_once))
            yield sample("fan_out.session", took * 0.8, number, together=str(at_once))
    for number in range(8):
        yield sample("memory.private", 21.5 + number / 8, number, unit="MiB", sessions="8")
        yield sample("memory.private.bare", 22.0, number, unit="MiB", sessions="8")
    for number in range(2000):
        value = draw.lognormvariate(3, 0.4)
        for case in ("1 snapshots", "10000 snapshots"):
            yield sample("lookup", value, number, unit="us", kind="none", case=case)


def write_bundle(place: Path, *samples: Sample, promises: tuple[Promised, ...] = ()) -> Path:
    with BundleWriter(place, "make bench", qemu_version="7.2.22") as writer:
        writer.add(*samples)
        writer.promise(*promises)
    return place
