"""Hold a bundle against another one, series by series."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from agentd.cli.tables import Table
from bench.bundle import Bundle, Group
from bench.report.figures import Change, match_groups, measure_groups
from bench.report.plots import axis, choose_scale, ratio_mark, row
from bench.report.section import Section
from bench.report.words import clean, figure, name_group

_PICTURES = 12
_COLUMNS = ("SERIES", "UNIT", "BASE N", "BASE P50", "N", "P50", "P50 / BASE")


def show_comparison(base: Bundle, here: Bundle) -> Iterator[Section]:
    """Ratios of medians, the largest change first; what only one of both has."""
    both, gone, new = match_groups(measure_groups(base.samples), measure_groups(here.samples))
    ordered = sorted(both, key=_size, reverse=True)
    yield Section(
        "Against the base",
        _words(base, here, both, gone, new),
        _picture(ordered),
        tables=[
            Table(_COLUMNS, [_row(one) for one in ordered], numeric=frozenset(_COLUMNS[2:])),
            *_alone("ONLY IN THE BASE", gone),
            *_alone("ONLY HERE", new),
        ],
        is_long=True,
    )


def _size(one: Change) -> float:
    """How far from 1, in either direction; nothing to compare comes last."""
    return abs(math.log(one.ratio)) if one.ratio else -1.0


def _words(
    base: Bundle, here: Bundle, both: Sequence[Change], gone: Sequence[Group], new: Sequence[Group]
) -> list[str]:
    then = base.manifest
    words = [
        f"The base: {clean(then.command)}, {clean(then.made_at)}, commit "
        f"{clean(then.commit) or 'not known'}{' and files that differ' if then.is_dirty else ''}. "
        f"{len(both)} series in common, {len(gone)} only in the base, {len(new)} only here.",
        "These are two runs one after the other, so a ratio is no verdict: the machine may have "
        "been slower once. `python -m bench.compare` runs both builds in turn and judges.",
    ]
    return [*words, *_differences(base, here)]


def _differences(base: Bundle, here: Bundle) -> Iterator[str]:
    then, now = base.manifest, here.manifest
    pairs = (
        ("processor", then.machine.cpu, now.machine.cpu),
        ("processors", str(then.machine.cores), str(now.machine.cores)),
        ("kernel", then.machine.kernel, now.machine.kernel),
        ("QEMU", then.machine.qemu_version, now.machine.qemu_version),
        ("Python", then.machine.python, now.machine.python),
        ("taken by the host", f"{then.steal_share:.1%}", f"{now.steal_share:.1%}"),
    )
    told = [f"{name} {clean(a)} then, {clean(b)} now" for name, a, b in pairs if a != b]
    if told:
        yield f"What else differs: {'; '.join(told)}."


def _picture(ordered: Sequence[Change]) -> str:
    """The largest changes; the table has all."""
    shown = [(one, one.ratio) for one in ordered if one.ratio][:_PICTURES]
    if not shown:
        return ""
    ratios = [1.0, *(ratio for _, ratio in shown)]
    scale = choose_scale(min(ratios), max(ratios))
    rows = (
        row(name, f"{ratio:.3f}x", ratio_mark(name, ratio, scale))
        for name, ratio in ((name_group(one.here.group), ratio) for one, ratio in shown)
    )
    return "".join(rows) + axis(scale, f"median / median of the base, {len(shown)} largest changes")


def _row(one: Change) -> tuple[str, ...]:
    group, ratio = one.here.group, one.ratio
    return (
        name_group(group),
        clean(group.unit),
        str(one.base.n),
        figure(one.base.at(50)),
        str(one.here.n),
        figure(one.here.at(50)),
        f"{ratio:.3f}" if ratio else "-",
    )


def _alone(title: str, groups: Sequence[Group]) -> Iterator[Table]:
    if groups:
        yield Table((title, "UNIT"), [(name_group(one), clean(one.unit)) for one in groups])
