"""Draw one row of a plot at a time: its label is text of the page, which a telephone can wrap.

Horizontal places are percentages of the row's width, vertical ones pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

from agentd.cli.report_plots import log_ticks, svg
from bench.report.knee import Knee, Level
from bench.report.words import figure

# More dots than this say no more, and make a page large.
DOTS: Final = 80
_CURVE: Final = 220


@dataclass(frozen=True)
class Scale:
    """Where a value is, in percent of the width."""

    low: float
    high: float
    is_log: bool

    def at(self, value: float) -> float:
        """Between 0 and 100 for what is in the range."""
        low, high, here = (self._place(one) for one in (self.low, self.high, value))
        return 100 * (here - low) / (high - low)

    def _place(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    @property
    def ticks(self) -> list[float]:
        """Round values of the range."""
        return log_ticks(self.low, self.high) if self.is_log else _even(self.low, self.high)

    @property
    def word(self) -> str:
        """For people."""
        return "logarithmic" if self.is_log else "linear"


def choose_scale(lowest: float, highest: float) -> Scale:
    """Logarithmic from a factor of 8; with a margin on both sides."""
    if lowest > 0 and highest / lowest >= 8:
        margin = (highest / lowest) ** 0.04
        return Scale(lowest / margin, highest * margin, True)
    margin = 0.04 * (highest - lowest) or abs(highest) * 0.04 or 1.0
    return Scale(lowest - margin, highest + margin, False)


def _even(low: float, high: float) -> list[float]:
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(n * power for n in (10, 5, 2, 1) if (high - low) / (n * power) >= 3)
    ticks = range(math.ceil(low / step), math.floor(high / step) + 1)
    return [round(number * step, 12) for number in ticks]


def thin(ordered: Sequence[float], most: int = DOTS) -> Sequence[float]:
    """At most so many of sorted values, evenly by rank, the first and the last among them."""
    if len(ordered) <= most:
        return ordered
    last = len(ordered) - 1
    return [ordered[round(number * last / (most - 1))] for number in range(most)]


def row(label: str, value: str, picture: str) -> str:
    """A label, its figure, its picture below them."""
    words = f"<b>{escape(label)}</b> <span>{escape(value)}</span>"
    return f'<figure class="row"><figcaption>{words}</figcaption>{picture}</figure>'


def strip(
    label: str, ordered: Sequence[float], middle: tuple[float, float, float], scale: Scale
) -> str:
    """Dots of values on a box of the middle half, a line at the median."""
    lower, median, upper = (scale.at(one) for one in middle)
    dots = "".join(
        f'<circle cx="{scale.at(value):.2f}%" cy="{20 + _jitter(number):.1f}" r="3"/>'
        for number, value in enumerate(thin(ordered))
    )
    body = (
        f'{_grid(scale, 40)}<g class="fork"><rect class="box" x="{lower:.2f}%" y="6" '
        f'width="{max(upper - lower, 0.3):.2f}%" height="28" rx="3"/>{dots}'
        f'<line class="median" x1="{median:.2f}%" x2="{median:.2f}%" y1="3" y2="37"/></g>'
    )
    told = f"median {figure(middle[1])}, middle half {figure(middle[0])} to {figure(middle[2])}"
    return svg(40, label, body, f"{told}, from {figure(ordered[0])} to {figure(ordered[-1])}")


def _jitter(number: int) -> float:
    # The golden ratio spreads neighbours evenly, and the same way each time.
    return (number * 0.618034 % 1 - 0.5) * 20


def _grid(scale: Scale, height: float) -> str:
    places = (f"{scale.at(tick):.2f}%" for tick in scale.ticks)
    lines = (f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height}"/>' for x in places)
    return "".join(lines)


def axis(scale: Scale, unit: str) -> str:
    """What the lines of the rows above stand for; said by the rows' descriptions as well."""
    names = "".join(_tick(scale.at(tick), 14, figure(tick)) for tick in scale.ticks)
    return f'<svg width="100%" height="20" aria-hidden="true">{names}</svg>' + (
        f'<p class="note">{escape(unit)}, {scale.word} axis</p>'
    )


def _tick(x: float, y: float, name: str) -> str:
    anchor = "start" if x < 5 else "end" if x > 95 else "middle"
    return f'<text class="tick" x="{x:.2f}%" y="{y}" text-anchor="{anchor}">{escape(name)}</text>'


def bar(label: str, start: float, size: float, full: float, kind: str = "fork") -> str:
    """A bar on its track; from 0, linear."""
    x, width = (100 * one / full if full > 0 else 0.0 for one in (start, size))
    body = (
        '<rect class="track" x="0" y="2" width="100%" height="11" rx="3"/>'
        f'<rect class="{kind}" x="{x:.2f}%" y="2" width="{max(width, 0.3):.2f}%" '
        'height="11" rx="3"/>'
    )
    return svg(15, label, body, f"{figure(size)} from {figure(start)}, of {figure(full)}")


def ratio_mark(label: str, ratio: float, scale: Scale) -> str:
    """A mark beside the line of no change."""
    here, one = scale.at(ratio), scale.at(1.0)
    left, width = min(here, one), max(abs(here - one), 0.4)
    body = (
        f'{_grid(scale, 20)}<rect class="cold" x="{left:.2f}%" y="6" width="{width:.2f}%" '
        f'height="8" rx="2"/><line class="one" x1="{one:.2f}%" x2="{one:.2f}%" y1="0" y2="20"/>'
    )
    return svg(20, label, body, f"{ratio:.3f} times the base's median")


def curve(label: str, levels: Sequence[Level], knee: Knee | None) -> str:
    """Throughput against the number at once; the number's axis is logarithmic."""
    scale = choose_scale(levels[0].at_once, levels[-1].at_once)
    full = max(level.per_s for level in levels) * 1.1

    def y(per_s: float) -> float:
        return _CURVE - 24 - (_CURVE - 44) * per_s / full

    points = [(scale.at(level.at_once), y(level.per_s)) for level in levels]
    body = "".join(
        _tick(x, _CURVE - 6, str(level.at_once)) for level, (x, _) in _zip(levels, points)
    )
    body += f'<line class="grid" x1="0" x2="100%" y1="{y(0)}" y2="{y(0)}"/>'
    body += _knee(knee, scale) if knee else ""
    body += '<g class="fork">' + "".join(
        f'<line class="median" x1="{x1:.2f}%" y1="{y1:.1f}" x2="{x2:.2f}%" y2="{y2:.1f}"/>'
        for (x1, y1), (x2, y2) in pairwise(points)
    )
    body += "".join(f'<circle cx="{x:.2f}%" cy="{at:.1f}" r="5"/>' for x, at in points) + "</g>"
    body += "".join(_tick(x, at - 10, figure(one.per_s)) for one, (x, at) in _zip(levels, points))
    told = "; ".join(f"{one.at_once} at once: {figure(one.per_s)} a second" for one in levels)
    return svg(_CURVE, label, body, told)


def _zip(
    levels: Sequence[Level], points: Sequence[tuple[float, float]]
) -> zip[tuple[Level, tuple[float, float]]]:
    return zip(levels, points, strict=True)


def _knee(knee: Knee, scale: Scale) -> str:
    x = scale.at(knee.at_once)
    return (
        f'<line class="knee" x1="{x:.2f}%" x2="{x:.2f}%" y1="18" y2="{_CURVE - 24}"/>'
        f"{_tick(x, 12, 'knee')}"
    )
