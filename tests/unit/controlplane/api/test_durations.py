"""Durations read and written as Go does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.durations import MAX_NS, MIN_NS, NS_PER_S, format_duration, parse_duration_ns

HOUR = 3600 * NS_PER_S

KNOWN = {
    "24h": 24 * HOUR,
    "90m": 90 * 60 * NS_PER_S,
    "1h30m": HOUR + HOUR // 2,
    "1.5h": HOUR + HOUR // 2,
    "-2m": -120 * NS_PER_S,
    "+2m": 120 * NS_PER_S,
    "0": 0,
    "-0": 0,
    ".5s": NS_PER_S // 2,
    "1.s": NS_PER_S,
    "1ns": 1,
    "1.9ns": 1,
    "1us": 1000,
    "1µs": 1000,
    "1\u03bcs": 1000,
    "100ms": NS_PER_S // 10,
    "1h0m0s": HOUR,
    "2562047h47m16.854775807s": MAX_NS,
    "-2562047h47m16.854775808s": MIN_NS,
}
WRONG = ["", "h", "1", "1d", " 1h", "1h ", "1h 2m", "--1h", "1..5h", ".s", "-", "1e3s", "٣h", "1H"]
TOO_LONG = ["2562047h47m16.854775808s", "9999999999h", "-3000000h", "9" * 40 + "ns"]


@pytest.mark.parametrize("text", KNOWN)
def test_known_texts_are_read_exactly(text: str) -> None:
    assert parse_duration_ns(text) == KNOWN[text]


@pytest.mark.parametrize("text", WRONG)
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration such as 24h"):
        parse_duration_ns(text)


@pytest.mark.parametrize("text", TOO_LONG)
def test_what_does_not_fit_into_64_bits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="longer than 2562047h47m"):
        parse_duration_ns(text)


@given(st.integers(MIN_NS, MAX_NS))
def test_what_is_written_is_read_back_exactly(ns: int) -> None:
    assert parse_duration_ns(format_duration(ns)) == ns


@given(st.text(alphabet="0123456789.hmsnuµ+- ", max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        ns = parse_duration_ns(text)
    except ValueError:
        return
    assert MIN_NS <= ns <= MAX_NS


@pytest.mark.parametrize("text", ["24h", "1h30m", "1.5s", "250ms", "3us", "0s", "-1m", "7ns"])
def test_short_forms_are_written(text: str) -> None:
    assert format_duration(parse_duration_ns(text)) == text
