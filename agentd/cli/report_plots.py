"""Draw the plots of the report as SVG.

Horizontal positions are percentages of the plot's width and vertical ones pixels, so that a plot
fits any screen while its text keeps its size. Labels stand above what they name: a phone has no
room beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from agentd.cli.report_stats import format_ms, quantile

_ROW = 74
_BAR_ROW = 40


@dataclass(frozen=True)
class Series:
    """Named samples; kind is the CSS class that colours them."""

    name: str
    kind: str
    values: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """A labelled bar made of parts; start and the parts' sizes in the plot's unit."""

    label: str
    value: str
    start: float
    parts: Sequence[tuple[str, float]]


def svg(height: float, title: str, body: str, description: str = "") -> str:
    """A plot as wide as its place; description: the figures, for those who do not see it."""
    told = f"<desc>{escape(description)}</desc>" if description else ""
    return (
        f'<svg width="100%" height="{height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{told}{body}</svg>"
    )


def strip_plot(series: Sequence[Series]) -> str:
    """Every sample as a dot above a box of the middle half, on a logarithmic axis."""
    shown = [one for one in series if one.values]
    values = [value for one in shown for value in one.values]
    low, high = _log_range(min(values), max(values))

    def x(value: float) -> float:
        return 100 * (math.log10(value) - low) / (high - low)

    height = len(shown) * _ROW
    body = [_axis(tick, x(tick), height) for tick in log_ticks(10**low, 10**high)]
    for row, one in enumerate(shown):
        body.append(_strip(one, row * _ROW, x))
    return svg(height + 26, "Distribution of start times, logarithmic axis", "".join(body))


def _log_range(lowest: float, highest: float) -> tuple[float, float]:
    low, high = math.log10(max(lowest, 0.01)), math.log10(max(highest, 0.01))
    margin = max(0.05 * (high - low), 0.04)
    return low - margin, high + margin


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between two bounds: 1, 2 and 5 of each power of ten, thinned to eight."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in range(first, last + 1) for m in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 8:
            break
    return ticks


def _axis(tick: float, x: float, height: float) -> str:
    anchor = "start" if x < 4 else "end" if x > 96 else "middle"
    name = f"{tick / 1000:g} s" if tick >= 1000 else f"{tick:g} ms"
    return (
        f'<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="20" y2="{height}"/>'
        f'<text class="tick" x="{x:.2f}%" y="{height + 17}" text-anchor="{anchor}">{name}</text>'
    )


def _strip(one: Series, top: float, at: Callable[[float], float]) -> str:
    ordered = sorted(one.values)
    lower, middle, upper = (quantile(ordered, share) for share in (0.25, 0.5, 0.75))
    left, width = at(lower), at(upper) - at(lower)
    dots = "".join(
        f'<circle cx="{at(value):.2f}%" cy="{top + 48 + _jitter(number):.1f}" r="3.5">'
        f"<title>{format_ms(value)}</title></circle>"
        for number, value in enumerate(one.values)
    )
    return (
        f'<g class="{one.kind}"><text class="label" y="{top + 18}">{escape(one.name)} '
        f'<tspan class="soft">{format_ms(middle)} median, n = {len(ordered)}</tspan></text>'
        f'<rect class="box" x="{left:.2f}%" y="{top + 32}" width="{max(width, 0.3):.2f}%" '
        f'height="32" rx="4"/>{dots}<line class="median" x1="{at(middle):.2f}%" '
        f'x2="{at(middle):.2f}%" y1="{top + 28}" y2="{top + 68}"/></g>'
    )


def _jitter(number: int) -> float:
    # The golden ratio spreads neighbours evenly, and the same way each time.
    return (number * 0.618034 % 1 - 0.5) * 22


def bar_plot(title: str, bars: Sequence[Bar], full: float) -> str:
    """Bars under their labels, on a linear axis from 0 to `full`."""
    body = "".join(_bar(bar, row * _BAR_ROW, full or 1.0) for row, bar in enumerate(bars))
    return svg(len(bars) * _BAR_ROW, title, body)


def _bar(bar: Bar, top: float, full: float) -> str:
    text = (
        f'<text class="label" y="{top + 14}">{escape(bar.label)}</text>'
        f'<text class="value" x="100%" y="{top + 14}" text-anchor="end">{escape(bar.value)}</text>'
        f'<rect class="track" x="0" y="{top + 20}" width="100%" height="11" rx="3"/>'
    )
    start = bar.start
    for kind, size in bar.parts:
        text += (
            f'<rect class="{kind}" x="{100 * start / full:.2f}%" y="{top + 20}" '
            f'width="{max(100 * size / full, 0.25):.2f}%" height="11" rx="3"/>'
        )
        start += size
    return text
