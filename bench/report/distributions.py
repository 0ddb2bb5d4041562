"""Show how samples are spread: of times, of memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from bench.bundle import nearest_rank
from bench.report.figures import MEMORY_UNITS, Measured
from bench.report.plots import DOTS, Scale, axis, bar, choose_scale, row, strip
from bench.report.section import Section
from bench.report.tables import series_table
from bench.report.words import clean, figure, name_group, text_bar


def show_memory(measured: Sequence[Measured]) -> Iterator[Section]:
    found = [one for one in measured if one.group.unit in MEMORY_UNITS and one.ordered]
    if not found:
        return
    full = max(one.ordered[-1] for one in found)
    shown = [(name_group(one.group), one.group.unit, one.at(50) or 0.0) for one in found]
    yield Section(
        "Memory",
        ["Medians, to scale. `private` is what one machine has alone and frees when it ends."],
        "".join(
            row(name, figure(value, unit), bar(name, 0.0, value, full))
            for name, unit, value in shown
        ),
        [f"{name[:34]:<34} {text_bar(0, value, full)}" for name, _, value in shown],
        [series_table(found)],
    )


def show_families(measured: Sequence[Measured]) -> Iterator[Section]:
    """Distributions; stages, memory have pictures of their own."""
    found: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for one in measured:
        if one.group.unit not in MEMORY_UNITS and not one.group.series.endswith(".stage"):
            found[one.family, one.group.unit].append(one)
    for (family, unit), members in found.items():
        yield _family(clean(family), clean(unit), members)


def _family(family: str, unit: str, members: Sequence[Measured]) -> Section:
    values = [one for one in members if one.ordered]
    if not values:
        return Section(
            f"Distribution: {family}", ["All samples failed."], tables=[series_table(members)]
        )
    scale = choose_scale(
        min(one.ordered[0] for one in values), max(one.ordered[-1] for one in values)
    )
    pictures = [
        row(name_group(one.group), _counts(one), _strip(one, scale) if one.ordered else "")
        for one in members
    ]
    return Section(
        f"Distribution: {family}",
        [_how_drawn(values)],
        "".join(pictures) + axis(scale, unit),
        tables=[series_table(members)],
        is_long=True,
    )


def _how_drawn(values: Sequence[Measured]) -> str:
    text = "A dot a sample; the box is the middle half, the line the median."
    if any(one.n > DOTS for one in values):
        text += f" Of more than {DOTS} samples some have one, by rank, the ends too."
    return text


def _strip(one: Measured, scale: Scale) -> str:
    lower, median, upper = (nearest_rank(one.ordered, percent) for percent in (25, 50, 75))
    return strip(name_group(one.group), one.ordered, (lower, median, upper), scale)


def _counts(one: Measured) -> str:
    failed = f", {len(one.errors)} failed" if one.errors else ""
    return f"median {figure(one.at(50), one.group.unit)}, n = {one.n}{failed}"
