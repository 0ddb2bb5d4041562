"""One form for each quantity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.snapshots.quantities import canonical_quantity


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("1000m", "1"),
        (1, "1"),
        ("1.0", "1"),
        ("0.5", "500m"),
        (".5", "0.5"),
        ("1024Mi", "1Gi"),
        ("1e3", "1k"),
        ("1E3", "1000"),
        ("1E", "1000000000000000000"),
        ("1Ei", "1152921504606846976"),
        ("1500000u", "1.5"),
        ("-0", "0"),
        ("+2", "2"),
        ("0.000", 0),
        ("100n", "0.0000001"),
    ],
)
def test_equal_quantities_read_the_same(written: str | int, same: str | int) -> None:
    assert canonical_quantity(written) == canonical_quantity(same)


@pytest.mark.parametrize(("one", "other"), [("1M", "1Mi"), ("1", "1k"), ("1m", "1M"), ("1", "-1")])
def test_different_quantities_stay_different(one: str, other: str) -> None:
    assert canonical_quantity(one) != canonical_quantity(other)


@pytest.mark.parametrize(
    "text", ["", "abc", "1 Gi", "1e999999999", "9" * 65, "Ki", "1ki", "\u0661", "1_0"]
)
def test_what_is_no_quantity_is_left_as_it_is(text: str) -> None:
    assert canonical_quantity(text) == text


@given(st.integers(min_value=0, max_value=2**62), st.sampled_from(["Ki", "Mi", "Gi", "Ti"]))
def test_binary_suffixes_are_exact(number: int, suffix: str) -> None:
    power = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4}[suffix]
    assert canonical_quantity(f"{number}{suffix}") == str(number * 1024**power)


@given(st.text(max_size=80))
def test_any_text_has_one_canonical_form(text: str) -> None:
    once = canonical_quantity(text)
    assert canonical_quantity(once) == once
