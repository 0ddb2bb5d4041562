"""Say what a bundle's figures do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentd.cli.report_stats import TAIL_SAMPLES, samples_needed
from bench.bundle import Manifest, Sample

STOLEN: Final = 0.01


def plan_notes(manifest: Manifest, samples: Sequence[Sample]) -> list[str]:
    """The narrower ones first, those of any run last."""
    kinds = {one.machine_kind for one in samples}
    caches = {one.cache for one in samples}
    notes = [_KINDS[kind] for kind in ("qemu", "kvm", "stand-in") if kind in kinds]
    if manifest.steal_share >= STOLEN:
        notes.append(
            f"The host took {manifest.steal_share:.1%} of the processor time for others meanwhile: "
            "times are longer than this machine needs, and spread more."
        )
    if "warm" in caches and "cold" not in caches:
        notes.append("Files were in the page cache. The first fork after a reboot is slower.")
    if manifest.is_dirty:
        notes.append("Files differed from the commit that is named: nobody can build this again.")
    if manifest.machine.virtualized:
        notes.append("The machine is itself virtual: who else is on its host is not known.")
    return [*notes, *_ALWAYS, _cores(manifest)]


_KINDS: Final = {
    "qemu": "Series of `qemu` ran guests on an emulated processor (TCG). With KVM what happens in "
    "a guest is far faster, what happens outside is not, so ratios of the two differ as well.",
    "kvm": "Series of `kvm` ran guests under KVM, perhaps nested: a machine without a hypervisor "
    "below it is faster.",
    "stand-in": "Series of `stand-in` had a process in place of a guest, which speaks its "
    "protocol: they tell what this software costs, not what a guest does.",
}
_ALWAYS: Final = (
    "One machine, one run. Another machine has other figures; ratios differ less, but differ.",
    f"A tail percentile is shown only where at least {TAIL_SAMPLES} samples lie beyond it: "
    f"p95 from {samples_needed(95)} samples, p99 from {samples_needed(99)}.",
)


def _cores(manifest: Manifest) -> str:
    return (
        f"{manifest.machine.cores} processors shared all work: how it scales with more of them "
        "is not shown."
    )
