"""Define one measured value."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

MachineKind = Literal["qemu", "kvm", "stand-in", "none"]
Cache = Literal["warm", "cold", "none"]


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured value, or one failure: then value is None, error says why.

    series: what was measured, such as `fork`. machine_kind: QEMU that emulates, a machine under
    KVM, a stand-in for a machine, none. cache: what the page cache held. dims: what else tells two
    groups of samples apart. round: which one of its group. at_s: seconds since the run began.
    steal_ms: processor time that the host took away meanwhile, of all processors.
    """

    series: str
    machine_kind: MachineKind
    cache: Cache
    unit: str
    value: float | None
    round: int
    at_s: float
    dims: dict[str, str] = {}
    error: str | None = None
    steal_ms: float = 0.0

    def __post_init__(self) -> None:
        if (self.value is None) == (self.error is None):
            raise ValueError("a sample has a value, or an error that says why it has none")
        if any(not math.isfinite(one) for one in (self.value or 0.0, self.at_s, self.steal_ms)):
            raise ValueError("a sample's numbers are finite")


def encode_line(sample: Sample) -> bytes:
    """As `samples.jsonl` holds it."""
    return msgspec.json.encode(sample) + b"\n"


def decode_lines(raw: bytes) -> list[Sample]:
    """Raises: ValueError that names the line."""
    decoder, samples = msgspec.json.Decoder(Sample), []
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            samples.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise ValueError(f"line {number}: {exc}") from exc
    return samples
