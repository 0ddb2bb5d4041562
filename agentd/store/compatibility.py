"""Decide whether a template fits the monitor of this node."""

from __future__ import annotations

import re
from typing import Final

from agentd.wire.manifest import FORMAT_VERSION, READABLE_VERSIONS, Manifest, VmmFacts

_TSC_TOLERANCE_PPM: Final = 1000  # 0.1 %: above the drift of one clock, below any two models
_PPM: Final = 1_000_000
# How a monitor says which states it can load, beside its release.
_STATE_FORMAT: Final = re.compile(r".*\(snapshot format (\d+)\.(\d+)\)")

_EQUAL_FACTS: Final = {
    "engine": "monitor",
    "version": "monitor version",
    "accel": "accelerator",
    "machine_type": "machine type",
    "cpu": "guest CPU model",
    "host_cpu": "host CPU",
}


def classify_compatibility(manifest: Manifest, here: VmmFacts) -> list[str]:
    """Say why a template cannot be forked by this node's monitor.

    Args: here: what the monitor says of itself for the template's machine.
    Returns: one sentence for each reason; empty when the template fits.
    """
    reasons = []
    if manifest.format_version not in READABLE_VERSIONS:
        reasons.append(f"format is {manifest.format_version}, this program uses {FORMAT_VERSION}")
    for fact, word in _EQUAL_FACTS.items():
        saved, current = getattr(manifest.vmm, fact), getattr(here, fact)
        if saved != current and not (fact == "version" and _can_load(saved, current)):
            reasons.append(f"{word} was {saved!r}, is {current!r}")
    reasons += _compare_devices(manifest.vmm.device_argv, here.device_argv)
    reasons += _compare_tsc(manifest.vmm.host_tsc_khz, here.host_tsc_khz)
    return reasons


def _can_load(saved: str, current: str) -> bool:
    """Whether another release of a monitor loads what was saved: if both name the format, and it is
    of the same major version, and not newer.
    """
    was, now = _STATE_FORMAT.fullmatch(saved), _STATE_FORMAT.fullmatch(current)
    return was is not None and now is not None and was[1] == now[1] and int(was[2]) <= int(now[2])


def _compare_devices(saved: tuple[str, ...], current: tuple[str, ...]) -> list[str]:
    if saved == current:
        return []
    for index, (was, now) in enumerate(zip(saved, current, strict=False)):
        if was != now:
            return [f"device argument {index} was {was!r}, is {now!r}"]
    return [f"there were {len(saved)} device arguments, there are {len(current)}"]


def _compare_tsc(saved_khz: int, current_khz: int) -> list[str]:
    difference = abs(saved_khz - current_khz)
    if difference * _PPM <= max(saved_khz, current_khz) * _TSC_TOLERANCE_PPM:
        return []
    return [f"host TSC ran at {saved_khz} kHz, runs at {current_khz} kHz"]
