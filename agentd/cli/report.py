"""Render a demo's result as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from itertools import pairwise

import msgspec

from agentd.cli.report_identity import render_identity
from agentd.cli.report_plots import Bar, Series, bar_plot, strip_plot
from agentd.cli.report_stats import (
    TAIL_SAMPLES,
    Summary,
    format_ms,
    format_ratio,
    ratio_interval,
    samples_needed,
    summarize,
)
from agentd.cli.report_style import CSS
from agentd.wire.demo import DemoResult, Sample, Stages

_STAGE_NAMES = {
    "spawn": "spawn: the VMM starts",
    "load": "load: device state is read",
    "resume": "resume: the guest runs",
    "inject": "inject: identity, entropy, clock",
    "guest_ready": "guest ready: it accepts code",
    "first_reply": "first reply: the result is back",
}


def render_report(result: DemoResult) -> str:
    """The report of one demo run: one self-contained page, with every sample embedded as JSON."""
    sections = (
        _hero(result),
        _distribution(result),
        _waterfall(result.stages_ms),
        _timeline(result),
        _memory(result),
        render_identity(result.identity),
        _machine(result),
        _limits(result),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>SnapStart: cold start against warm fork</title><style>{CSS}</style></head>"
        f"<body><main>{_header(result)}{''.join(sections)}"
        "<footer>Every sample of this page is embedded in it as JSON, in the script element "
        "<code>#samples</code>.</footer></main>"
        f'<script id="samples" type="application/json">{_embedded(result)}</script>'
        "</body></html>\n"
    )


def _embedded(result: DemoResult) -> str:
    # Inside a script element only "<" can end it, and JSON has another spelling for it.
    return msgspec.json.encode(result).decode().replace("<", "\\u003c")


def _values(samples: Sequence[Sample]) -> list[float]:
    return [sample.ms for sample in samples]


def _began(result: DemoResult) -> str:
    samples = (*result.cold_ms, *result.fork_ms)
    if not samples:
        return ""
    first = min(sample.started_at for sample in samples)
    return datetime.fromtimestamp(first, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _header(result: DemoResult) -> str:
    where = f"{result.engine} with {result.accel.upper()}"
    eyebrow = " &middot; ".join(escape(part) for part in (where, _began(result)) if part)
    cold, fork = summarize(_values(result.cold_ms)), summarize(_values(result.fork_ms))
    title = "Cold start against warm fork"
    if cold and fork:
        title = f"A warm fork answers in {_whole(fork.median)}, a cold start in "
        title += _whole(cold.median)
    return (
        f'<header><p class="eyebrow">SnapStart &middot; {eyebrow}</p><h1>{title}</h1>'
        f'<p class="lead">Both are whole microVMs of {result.guest_memory_mib} MiB that run Python '
        "code for one caller. The cold one boots and imports its packages; the fork is a "
        "copy-on-write copy of a machine that has done so before and held no user's state. "
        "Measured from the request to the first reply of user code.</p></header>"
    )


def _whole(value: float) -> str:
    return format_ms(value).replace(" ", "&nbsp;")


def _hero(result: DemoResult) -> str:
    cold, fork = summarize(_values(result.cold_ms)), summarize(_values(result.fork_ms))
    if not cold or not fork:
        return ""
    bars = [_median_bar("cold start", "cold", cold), _median_bar("agentd fork", "fork", fork)]
    interval = ratio_interval(_values(result.cold_ms), _values(result.fork_ms))
    note = "Ratio of the medians"
    if interval:
        low, high = map(format_ratio, interval)
        note += f"; 95&#8239;% bootstrap interval {low} to {high}"
    return (
        '<section class="hero"><div><div class="factor">'
        f"{format_ratio(cold.median / fork.median)}<small>&times;</small></div>"
        '<div class="note">faster to first reply</div></div>'
        f"<div>{bar_plot('Median start times, linear', bars, cold.median)}</div>"
        f'<p class="note">{note}. Bars to scale.</p></section>'
    )


def _median_bar(label: str, kind: str, summary: Summary) -> Bar:
    return Bar(label, format_ms(summary.median), 0.0, [(kind, summary.median)])


def _distribution(result: DemoResult) -> str:
    series = [
        Series("cold start", "cold", _values(result.cold_ms)),
        Series("agentd fork", "fork", _values(result.fork_ms)),
        Series("bare fork", "bare", _values(result.bare_fork_ms)),
    ]
    if not any(one.values for one in series):
        return ""
    return (
        "<section><h2>Every start that was measured</h2>"
        '<p class="note">One dot a start; the box holds the middle half, the line is the median. '
        "The axis is logarithmic. The bare fork is the VMM's own sequence without agentd.</p>"
        f"{strip_plot(series)}{_summary_table(series)}{_overhead(result)}"
        f'<p class="note">A tail percentile is given only where at least {TAIL_SAMPLES} samples '
        f"lie beyond it: p95 from {samples_needed(95)} samples, p99 from {samples_needed(99)}.</p>"
        "</section>"
    )


def _summary_table(series: Sequence[Series]) -> str:
    rows = [(one.name, found) for one in series if (found := summarize(one.values))]
    tails = [name for name in ("p95", "p99") if any(getattr(s, name) for _, s in rows)]
    names = ["n", "median", "min", "quartile 1", "quartile 3", "max", *tails]
    head = "".join(f'<th class="n">{name}</th>' for name in names)
    body = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{one.count}</td>{_cells(one, tails)}</tr>'
        for name, one in rows
    )
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _cells(one: Summary, tails: Sequence[str]) -> str:
    values = [one.median, one.minimum, one.lower, one.upper, one.maximum]
    values += [getattr(one, name) for name in tails]
    return "".join(
        f'<td class="n">{"&ndash;" if value is None else format_ms(value)}</td>' for value in values
    )


def _overhead(result: DemoResult) -> str:
    fork, bare = summarize(_values(result.fork_ms)), summarize(_values(result.bare_fork_ms))
    if not fork or not bare:
        return ""
    more = fork.median - bare.median
    share = f"{abs(more) / bare.median:.1%}".replace("%", "&#8239;%")
    word = "more" if more >= 0 else "less"
    return (
        f"<p>The median agentd fork takes {format_ms(abs(more))} ({share}) {word} than the median "
        "bare one.</p>"
    )


def _waterfall(forks: Sequence[Stages]) -> str:
    if not forks:
        return ""
    ordered = sorted(forks, key=lambda one: one.first_reply)
    chosen = ordered[(len(ordered) - 1) // 2]
    ends = [getattr(chosen, name) for name in _STAGE_NAMES]
    bars = [
        Bar(label, format_ms(max(end - start, 0.0)), start, [("fork", max(end - start, 0.0))])
        for label, (start, end) in zip(_STAGE_NAMES.values(), pairwise([0.0, *ends]), strict=True)
    ]
    return (
        "<section><h2>Where the time of a fork goes</h2>"
        f'<p class="note">The median one of {len(forks)} forks, '
        f"{format_ms(chosen.first_reply)} from request to first reply.</p>"
        f"{bar_plot('Stages of the median fork', bars, max(ends))}</section>"
    )


def _timeline(result: DemoResult) -> str:
    forks = sorted(result.concurrent_ms, key=lambda one: one.started_at)
    if not forks:
        return ""
    first = forks[0].started_at
    starts = [(one.started_at - first) * 1e3 for one in forks]
    full = max(start + one.ms for start, one in zip(starts, forks, strict=True))
    bars = [
        Bar(f"fork {number}", format_ms(one.ms), start, [("fork", one.ms)])
        for number, (start, one) in enumerate(zip(starts, forks, strict=True), 1)
    ]
    return (
        f"<section><h2>{len(forks)} forks requested at once</h2>"
        f'<p class="note">All had answered after {format_ms(result.concurrent_wall_ms)}, on '
        f"{result.machine.cores} cores.</p>{bar_plot('Concurrent forks', bars, full)}</section>"
    )


def _memory(result: DemoResult) -> str:
    pairs = list(zip(result.private_mib_per_fork, result.shared_mib_per_fork, strict=False))
    if not pairs:
        return ""
    bars = [
        Bar(
            f"fork {number}",
            f"{private:.1f} + {shared:.1f} MiB",
            0.0,
            [("fork", private), ("shared", shared)],
        )
        for number, (private, shared) in enumerate(pairs, 1)
    ]
    mean = sum(private for private, _ in pairs) / len(pairs)
    return (
        f"<section><h2>A fork costs {mean:.1f} MiB of its own</h2>"
        '<p class="keys"><span><i class="key fork"></i>private</span>'
        '<span><i class="key shared"></i>shared with template and siblings</span></p>'
        f"{bar_plot('Memory of each fork', bars, max(map(sum, pairs)))}"
        f'<p class="note">agentd itself holds {result.agentd_rss_mib:.1f} MiB.</p></section>'
    )


def _machine(result: DemoResult) -> str:
    machine = result.machine
    facts = (
        ("cpu", f"{machine.cpu}, {machine.cores} cores"),
        ("memory", f"{machine.memory_mib} MiB"),
        ("kernel", machine.kernel),
        ("virtualized", machine.virtualized),
        ("accelerator", result.accel),
        ("QEMU", machine.qemu_version),
        ("Python", machine.python),
        ("template", result.template),
        ("commit", machine.commit),
    )
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
    commands = "\n".join(escape(command) for command in result.commands)
    shown = f"<pre>{commands}</pre>" if commands else ""
    return f"<section><h2>Where it was measured</h2><dl>{rows}</dl>{shown}</section>"


def _limits(result: DemoResult) -> str:
    notes = [
        "One machine, one run, one image. Figures of another machine differ; the ratio differs "
        "less, but differs.",
        "Nothing else was asked of the template's memory: it was in the page cache. The first fork "
        "after a reboot is slower.",
        "The first reply is a small one. Code that touches much of the template's memory pays for "
        "copying it then, which these times do not show.",
        "Forks at once compete for the cores listed above; how they scale beyond is not shown.",
    ]
    if result.accel.lower() == "tcg":
        notes.insert(
            0,
            "The cpu was emulated (TCG). With KVM both starts are far faster, and so their ratio "
            "is another.",
        )
    items = "".join(f"<li>{escape(note)}</li>" for note in [*notes, *result.notes])
    return f"<section><h2>What these figures do not tell</h2><ul>{items}</ul></section>"
