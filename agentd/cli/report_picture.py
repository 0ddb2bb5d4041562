"""Draw a demo's cold starts against its forks as one picture, an SVG file of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

from agentd.cli.report_stats import format_ms, format_ratio, summarize
from agentd.wire.demo import DemoResult, Sample, Stages

_WIDTH, _HEIGHT, _MARGIN = 860, 330, 30
_PLOT = _WIDTH - 2 * _MARGIN
_SHADES = ("#0b5c55", "#0f766e", "#1b9486", "#35ab9c", "#66c2b5", "#9bd8ce")
_STAGES = Stages.__struct_fields__
_STYLE = (
    "text{font:15px system-ui,sans-serif;fill:#1f2933}.title{font-size:19px;font-weight:600}"
    ".soft{font-size:11.5px;fill:#52606d}.value{font-weight:600}"
)


def render_picture(result: DemoResult) -> str:
    """Cold start and fork on one scale, then the fork's stages on a scale of their own.

    Raises: ValueError without a sample of each.
    """
    cold, fork = _median(result.cold_ms), _median(result.fork_ms)
    title = f"A fork answers {format_ratio(cold / fork)} times sooner than a cold start"
    body = (
        _text(_MARGIN, 36, title, "title"),
        *_bar(66, "cold start: boot, imports, first answer", cold, cold, "#b4532a"),
        *_bar(126, "fork of a warm template", fork, cold, _SHADES[1]),
        *_stages(198, result.stages_ms),
        *_caption(_HEIGHT - 36, result),
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="12" fill="#fbfaf7"/>{"".join(body)}</svg>\n'
    )


def _median(samples: Sequence[Sample]) -> float:
    found = summarize([sample.ms for sample in samples])
    if found is None:
        raise ValueError("it has no cold start, or no fork: nothing to compare")
    return found.median


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _rect(x: float, y: float, width: float, colour: str, height: int = 20) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{max(width, 1.5):.1f}" height="{height}" '
        f'fill="{colour}"/>'
    )


def _bar(y: float, label: str, value: float, full: float, colour: str) -> Iterator[str]:
    yield _text(_MARGIN, y + 12, label)
    yield _text(_WIDTH - _MARGIN, y + 12, format_ms(value), "value", "end")
    yield _rect(_MARGIN, y + 20, _PLOT * value / full, colour)


def _stages(y: float, stages: Sequence[Stages]) -> Iterator[str]:
    """The fork whose last stage is the middle one: medians of stages would add up to no fork."""
    if not stages:
        return
    one = sorted(stages, key=lambda fork: fork.first_reply)[len(stages) // 2]
    ends = [0.0, *(getattr(one, name) for name in _STAGES)]
    total = ends[-1] or 1.0
    yield _text(_MARGIN, y + 2, f"inside one fork of {format_ms(total)}:")
    for number, (name, (begin, end)) in enumerate(zip(_STAGES, pairwise(ends), strict=True)):
        x = _MARGIN + _PLOT * begin / total
        yield _rect(x, y + 12, _PLOT * (end - begin) / total, _SHADES[number])
        # The names stand side by side below: a stage can be too short for its own.
        column = _MARGIN + _PLOT * number / len(_STAGES)
        yield _rect(column, y + 43, 10, _SHADES[number], 10)
        yield _text(
            column + 14, y + 52, f"{name.replace('_', ' ')} {format_ms(end - begin)}", "soft"
        )


def _caption(y: float, result: DemoResult) -> Iterator[str]:
    machine = result.machine
    counted = (
        f"medians; cold starts: {len(result.cold_ms)}, forks one by one: {len(result.fork_ms)}"
    )
    yield _text(
        _MARGIN,
        y,
        f"Measured by {result.commands[0] if result.commands else 'a demo'}: {counted}, "
        f"{result.guest_memory_mib} MiB guests, {result.engine} {machine.qemu_version} with "
        f"{result.accel.upper()}",
        "soft",
    )
    yield _text(
        _MARGIN,
        y + 18,
        f"{machine.cores} cores, {machine.cpu}, Linux {machine.kernel}"
        + (f", commit {machine.commit[:12]}" if machine.commit else ""),
        "soft",
    )
