"""Show what more at once brings, where it brings no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentd.cli.tables import Table
from bench.report.figures import Curve
from bench.report.knee import LEVELS, RULE, Knee, find_knee
from bench.report.plots import curve, row
from bench.report.section import Section
from bench.report.words import figure, name_group, text_bar


def show_throughput(curves: Sequence[Curve]) -> Iterator[Section]:
    if not curves:
        return
    found = [(one, find_knee(one.levels)) for one in curves]
    full = max(level.per_s for one in curves for level in one.levels)
    yield Section(
        "Throughput against how many at once",
        [
            RULE,
            "So many at once, divided by the median time until all are done; where clients "
            "ask over and over, what they got in a second.",
        ],
        "".join(
            row(
                name_group(one.name),
                _knee_words(one, knee),
                curve(name_group(one.name), one.levels, knee),
            )
            for one, knee in found
        ),
        [
            f"{name_group(one.name)[:24]:<24} {level.at_once:>5} "
            f"{text_bar(0, level.per_s, full)}{'  <- knee' if _is_at(knee, level.at_once) else ''}"
            for one, knee in found
            for level in one.levels
        ],
        [_curve_table(one, knee) for one, knee in found],
    )


def _is_at(knee: Knee | None, at_once: int) -> bool:
    return knee is not None and knee.at_once == at_once


def _knee_words(one: Curve, knee: Knee | None) -> str:
    if knee is None:
        numbers = len(one.levels)
        why = (
            "too few numbers were measured" if numbers < LEVELS else "it grew to the largest number"
        )
        return f"no knee: {why}"
    where = f"knee at {knee.at_once}, {figure(knee.per_s, 'a second')}"
    unseen = f"; between {knee.above} and {knee.at_once} nothing was measured"
    return where + (unseen if 0 < knee.above < knee.at_once - 1 else "")


def _curve_table(one: Curve, knee: Knee | None) -> Table:
    columns = ("AT ONCE", "A SECOND", "ROUNDS", "KNEE")
    rows = [
        (
            str(level.at_once),
            figure(level.per_s),
            str(rounds),
            "here" if _is_at(knee, level.at_once) else "",
        )
        for level, rounds in zip(one.levels, one.rounds, strict=True)
    ]
    title = f"{name_group(one.name)}: {_knee_words(one, knee)}"
    return Table(columns, rows, title=title, numeric=frozenset(columns[:3]))
