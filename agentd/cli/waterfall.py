"""Say where the time of one start went, from the stages that a session keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

# Of the daemon, since the request came; the last one is where those of the monitor begin to count.
_BEFORE: Final = ("template", "slot", "prepared")
_MONITOR: Final = ("spawn", "load", "resume", "inject", "guest_ready")
_MEANING: Final = {
    "template": "identity, admission, the template in memory",
    "slot": "a free place among the starts, journal, directory",
    "prepared": "sockets, control group, command line, a thread",
    "spawn": "the monitor's program is executed",
    "load": "it starts, reads the device state",
    "resume": "the guest's processors run",
    "inject": "the guest answers, takes the identity",
    "guest_ready": "it becomes the session, opens its gate",
    "handover": "the channel, the journal, the session",
    "unrecorded": "nobody noted what it was",
}
_WIDTH: Final = 40


class Bar(msgspec.Struct, frozen=True):
    """One stage: milliseconds since the request. beside: during which it ran, or empty."""

    stage: str
    begin_ms: float
    end_ms: float
    what: str
    beside: str = ""

    @property
    def took_ms(self) -> float:
        """Its length."""
        return self.end_ms - self.begin_ms


def plan_waterfall(stages_ms: Mapping[str, float]) -> list[Bar]:
    """Bars in the order of their causes; together they cover the time from request to reply.

    A stage begins when the one before it is over. One that was over earlier than that ran beside
    it. What lies between those that are known is a bar of its own with a name.
    """
    bars: list[Bar] = []
    for stage in _BEFORE:
        if stage in stages_ms:
            bars.append(_next(bars, stage, stages_ms[stage]))
    total_ms = stages_ms.get("total")
    known = [stage for stage in _MONITOR if stage in stages_ms]
    last_ms = max((stages_ms[stage] for stage in known), default=0.0)
    zero_ms = stages_ms.get("prepared")
    if zero_ms is None:  # kept by a daemon that did not note it: all the rest went by before
        zero_ms = max(0.0, (total_ms or 0.0) - last_ms) if known else 0.0
        if zero_ms:
            bars.append(_next(bars, "unrecorded", zero_ms))
    bars += _of_monitor(stages_ms, known, zero_ms)
    if total_ms is not None and total_ms > (at_ms := _reached(bars)):
        rest = "handover" if known else "unrecorded"
        bars.append(Bar(rest, at_ms, total_ms, _MEANING[rest]))
    return bars


def _of_monitor(
    stages_ms: Mapping[str, float], known: Sequence[str], zero_ms: float
) -> Sequence[Bar]:
    bars: list[Bar] = []
    for stage in known:
        end_ms = zero_ms + stages_ms[stage]
        reached_ms = _reached(bars, zero_ms)
        if end_ms >= reached_ms:
            bars.append(Bar(stage, reached_ms, end_ms, _MEANING[stage]))
        else:
            other = next(bar for bar in reversed(bars) if bar.end_ms == reached_ms)
            begin_ms = min(other.begin_ms, end_ms)
            bars.append(Bar(stage, begin_ms, end_ms, _MEANING[stage], other.stage))
    return bars


def _next(bars: Sequence[Bar], stage: str, end_ms: float) -> Bar:
    begin_ms = _reached(bars)
    return Bar(stage, begin_ms, max(begin_ms, end_ms), _MEANING[stage])


def _reached(bars: Sequence[Bar], start_ms: float = 0.0) -> float:
    return max((bar.end_ms for bar in bars), default=start_ms)


def draw_bar(bar: Bar, whole_ms: float, width: int = _WIDTH) -> str:
    """A bar at its place in `width` characters; one that is too short for one is a tick."""
    scale = width / whole_ms if whole_ms > 0 else 0.0
    begin = min(width - 1, int(bar.begin_ms * scale))
    end = min(width, round(bar.end_ms * scale))
    mark = "=" if bar.beside else "#"
    return ("." * begin + (mark * (end - begin) or "|")).ljust(width, ".")
