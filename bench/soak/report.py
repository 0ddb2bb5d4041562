"""Write the run as a page."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from agentd.cli.report_plots import svg
from agentd.cli.report_style import CSS
from bench.soak.run import Run
from bench.soak.trend import P_LIMIT, WARM_UP
from bench.soak.verdict import Verdict, has_failed

_HEIGHT = 120


def render(run: Run, verdicts: list[Verdict], machine: str) -> str:
    """The whole page, which needs nothing else."""
    when = datetime.fromtimestamp(run.begun_at_s, UTC).isoformat(timespec="seconds")
    word = "failed" if has_failed(run, verdicts) else "passed"
    done = ", ".join(f"{count} {name}" for name, count in sorted(run.done.items()))
    failed = "".join(f"<li>{escape(one)}</li>" for one in run.failures)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Soak</title>'
        f"<style>{CSS} svg polyline{{fill:none;stroke:var(--fork);stroke-width:2}}</style></head>"
        f'<body><main><header><p class="eyebrow">soak</p><h1>{len(run.samples)} rounds in '
        f"{run.seconds / 60:.1f} minutes: {word}</h1>"
        f'<p class="lead">{escape(when)}, {escape(machine)}. {escape(done)}. '
        f"{len(run.failures)} failures.</p></header>"
        f"<section><h2>Failures</h2><ul>{failed or '<li>none</li>'}</ul></section>"
        f"<section><h2>The rule</h2><p>One sample after each round. A quantity grows if "
        f"Kendall's test within each process's life says so with p &lt; {P_LIMIT:g}, and the "
        f"Theil-Sen slope over the longest life is more than what is allowed. The first "
        f"{WARM_UP} samples of a life are left out. Vertical lines: a new process.</p></section>"
        f"{''.join(_section(one, run) for one in verdicts)}</main></body></html>\n"
    )


def _section(one: Verdict, run: Run) -> str:
    trend = one.trend
    p = "" if trend.p is None else f", p = {trend.p:.2g}"
    kind = "bad" if one.is_bad else "ok"
    return (
        f"<section><h2>{escape(one.quantity.name)}: "
        f'<span class="{kind}">{one.word}</span></h2>'
        f'<p class="note">{_range(one)}; growth {trend.growth:.3g} {one.quantity.unit} over a '
        f"life{p}; allowed {one.quantity.allowed:g}</p>{_plot(one, run)}</section>"
    )


def _range(one: Verdict) -> str:
    unit = one.quantity.unit
    return f"{min(one.values):.5g} to {max(one.values):.5g} {unit}, n = {trend_count(one)}"


def trend_count(one: Verdict) -> int:
    """Of the samples that were judged."""
    return one.trend.samples


def _plot(one: Verdict, run: Run) -> str:
    """Positions are of a view box that is stretched to the page; lines keep their width."""
    low, high = min(one.values), max(one.values)
    full, span = run.seconds or 1.0, (high - low) or 1.0

    def x(number: int) -> float:
        return 1000 * run.at_s[number] / full

    def y(value: float) -> float:
        return 10 + (_HEIGHT - 20) * (1 - (value - low) / span)

    points = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(one.values))
    starts = "".join(
        f'<line class="grid" x1="{x(i):.1f}" x2="{x(i):.1f}" y1="0" y2="{_HEIGHT}"/>'
        for i in one.starts[1:]
        if i < len(run.at_s)
    )
    box = f'<svg viewBox="0 0 1000 {_HEIGHT}" preserveAspectRatio="none" height="{_HEIGHT}">'
    line = f'<polyline vector-effect="non-scaling-stroke" points="{points}"/>'
    return svg(_HEIGHT, one.quantity.name, f"{box}{starts}{line}</svg>")
