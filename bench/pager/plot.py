"""Draw the time to the working set of every way as one SVG file that needs nothing else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from agentd.cli.report_plots import log_ticks

_WIDTH: Final = 980
_LEFT: Final = 290
_RIGHT: Final = 110
_ROW: Final = 26
_HEAD: Final = 52

_STYLE: Final = """
text{font:13px system-ui,sans-serif;fill:#14181f}.head{font-weight:600;font-size:15px}
.soft{fill:#5a6472}.grid{stroke:#e3e7ec}.kernel{color:#c2571a}.ours{color:#0b7a75}.raw{color:#5b5fc7}
.dot{fill:currentColor;opacity:.45}.median{stroke:currentColor;stroke-width:3}
"""


@dataclass(frozen=True)
class Row:
    """Milliseconds of one way, a value for each round. kind: the colour's name."""

    label: str
    kind: str
    values_ms: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """Rows with an axis in common."""

    title: str
    rows: Sequence[Row]


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The file's text. Every panel has its own logarithmic axis."""
    body, top = [], 40.0
    for panel in panels:
        body.append(_panel(panel, top))
        top += _HEAD + _ROW * len(panel.rows) + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top:.0f}" '
        f'viewBox="0 0 {_WIDTH} {top:.0f}" role="img"><title>{escape(title)}</title>'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="head" x="12" y="26">{escape(title)}</text>{"".join(body)}</svg>\n'
    )


def _panel(panel: Panel, top: float) -> str:
    values = [value for row in panel.rows for value in row.values_ms]
    low, high = math.log10(min(values) * 0.9), math.log10(max(values) * 1.1)

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log10(value) - low) / (high - low)

    bottom = top + _HEAD + _ROW * len(panel.rows)
    text = [f'<text class="head" x="12" y="{top + 24:.0f}">{escape(panel.title)}</text>']
    text += [_tick(tick, x(tick), top + 34, bottom) for tick in log_ticks(10**low, 10**high)]
    for number, row in enumerate(panel.rows):
        places = [x(value) for value in row.values_ms]
        middle = statistics.median(row.values_ms)
        text.append(_row(row, places, x(middle), middle, top + _HEAD + _ROW * number))
    return "".join(text)


def _tick(tick: float, x: float, top: float, bottom: float) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.0f}" y2="{bottom:.0f}"/>'
        f'<text class="soft" x="{x:.1f}" y="{bottom + 16:.0f}" text-anchor="middle">'
        f"{tick:g} ms</text>"
    )


def _row(row: Row, places: Sequence[float], middle: float, median_ms: float, top: float) -> str:
    centre = top + _ROW / 2
    dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{centre:.1f}" r="3.5"/>' for x in places)
    return (
        f'<g class="{row.kind}"><text x="12" y="{centre + 4:.1f}">{escape(row.label)}</text>{dots}'
        f'<line class="median" x1="{middle:.1f}" x2="{middle:.1f}" '
        f'y1="{top + 4:.1f}" y2="{top + _ROW - 4:.1f}"/>'
        f'<text class="soft" x="{_WIDTH - 12}" y="{centre + 4:.1f}" text-anchor="end">'
        f"{median_ms:.1f} ms</text></g>"
    )
