"""Show where the time of one round goes."""

from __future__ import annotations

from agentd.cli.tables import Table
from bench.report.figures import Waterfall
from bench.report.plots import bar, row
from bench.report.section import Section
from bench.report.words import clean, figure, name_group, text_bar


def show_waterfall(one: Waterfall) -> Section:
    unit = clean(one.group.unit)
    words = [
        f"The round whose last stage is the median of {one.rounds} rounds: "
        f"{figure(one.total, unit)} from begin to end. Medians of stages would add up to no round."
    ]
    if one.left_out:
        words.append(f"{one.left_out} rounds lack a stage, and are left out.")
    bars = [(clean(name), begin, end - begin) for name, begin, end in one.stages]
    rows = [
        (clean(name), figure(begin), figure(end - begin), figure(end), figure(one.ends_p50[name]))
        for name, begin, end in one.stages
    ]
    columns = ("STAGE", "BEGIN", "TOOK", "END", "P50 OF END")
    return Section(
        f"Stages of {name_group(one.group).replace('.stage', '', 1)}",
        words,
        "".join(
            row(name, figure(took, unit), bar(f"stage {name}", begin, took, one.total))
            for name, begin, took in bars
        ),
        [f"{name:<14.14} {text_bar(begin, took, one.total)}" for name, begin, took in bars],
        [Table(columns, rows, title=f"round {one.round}, {unit}", numeric=frozenset(columns[1:]))],
    )
