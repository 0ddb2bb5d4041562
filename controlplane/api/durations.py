"""Convert durations between Go's text form and nanoseconds."""

from __future__ import annotations

import re
from typing import Final

NS_PER_S: Final = 1_000_000_000
MAX_NS: Final = 2**63 - 1
MIN_NS: Final = -(2**63)

_UNIT_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,
    "ms": 1_000_000,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
}
_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of a duration such as `24h`, `1h30m`, `1.5h`, `-2m`; what is smaller is cut off.

    Raises: ValueError if it is no such text or does not fit into 64 bits.
    Source: the Go language's time.ParseDuration, which the API server applies too.
    """
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total = sign * _sum_parts(rest, text)
    if not MIN_NS <= total <= MAX_NS:
        raise ValueError(f"the duration {text!r} is longer than {format_duration(MAX_NS)}")
    return total


def _sum_parts(rest: str, text: str) -> int:
    total, position = 0, 0
    while position < len(rest) or not rest:
        part = _PART.match(rest, position)
        if part is None or not (part[1] or part[2]):
            raise ValueError(f"{text!r} is not a duration such as 24h, 90m, 1h30m or 1.5h")
        unit, fraction = _UNIT_NS[part[3]], part[2] or ""
        total += int(part[1] or 0) * unit
        total += int(fraction or 0) * unit // 10 ** len(fraction)
        position = part.end()
    return total


def format_duration(ns: int) -> str:
    """The shortest text that means exactly `ns` nanoseconds: `24h`, `1h30m`, `1.5s`, `0s`."""
    if ns == 0:
        return "0s"
    sign, left = ("-" if ns < 0 else ""), abs(ns)
    if left < NS_PER_S:
        return sign + _format_small(left)
    hours, left = divmod(left, _UNIT_NS["h"])
    minutes, left = divmod(left, _UNIT_NS["m"])
    parts = [f"{hours}h"] if hours else []
    parts += [f"{minutes}m"] if minutes else []
    parts += [_format_fraction(left, "s")] if left else []
    return sign + "".join(parts)


def _format_small(ns: int) -> str:
    return _format_fraction(ns, "ms" if ns >= 1_000_000 else "us" if ns >= 1_000 else "ns")


def _format_fraction(ns: int, unit: str) -> str:
    whole, left = divmod(ns, _UNIT_NS[unit])
    digits = f"{left:0{len(str(_UNIT_NS[unit])) - 1}d}".rstrip("0") if left else ""
    return f"{whole}.{digits}{unit}" if digits else f"{whole}{unit}"
