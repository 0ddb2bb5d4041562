"""Put names, figures of a bundle into words. What it says of itself is not to be trusted."""

from __future__ import annotations

from agentd.cli.report_stats import samples_needed
from bench.bundle import Group, Percentiles

_LONGEST = 400


def clean(text: str) -> str:
    """One line without control characters, which a terminal obeys and a page may not hold."""
    shown = "".join(one if one.isprintable() else " " for one in text[: _LONGEST + 1])
    line = " ".join(shown.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def name_dims(group: Group | Percentiles) -> str:
    """The dimensions: `request=numpy together=8`."""
    dims = group.dims.items() if isinstance(group.dims, dict) else group.dims
    return clean(" ".join(f"{name}={value}" for name, value in sorted(dims)))


def name_group(group: Group | Percentiles) -> str:
    """Everything that tells it from others, but the unit."""
    cache = "" if group.cache == "none" else f"{group.cache} cache"
    machine = "" if group.machine_kind == "none" else group.machine_kind
    about = ", ".join(part for part in (name_dims(group), machine, cache) if part)
    return clean(group.series) + (f" ({about})" if about else "")


def figure(value: float | None, unit: str = "") -> str:
    """Four digits, never as a power of ten if it is no dwarf; a dash without a value."""
    if value is None:
        return "-"
    text = f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return f"{text} {clean(unit)}" if unit else text


def tail(value: float | None, count: int, percentile: int) -> str:
    """A dash where so few samples do not carry it."""
    return figure(value) if count >= samples_needed(percentile) else "-"


def text_bar(start: float, size: float, full: float, width: int = 36) -> str:
    """A bar of a terminal, at least one character of it where its size is not 0."""
    scale = width / full if full > 0 else 0.0
    begin = min(round(start * scale), width - 1)
    length = max(round(size * scale), 1 if size > 0 else 0)
    return " " * begin + "#" * min(length, width - begin)
