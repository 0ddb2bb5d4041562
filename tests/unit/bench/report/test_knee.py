"""The knee is where more at once bring hardly more."""

from __future__ import annotations

import pytest

from bench.report import Knee, Level, find_knee


def levels(*points: tuple[int, float]) -> list[Level]:
    return [Level(at_once, per_s) for at_once, per_s in points]


@pytest.mark.parametrize(
    ("points", "knee"),
    [
        pytest.param([(1, 1.0), (8, 2.0), (32, 2.1)], Knee(8, 2.0, 1), id="it flattens"),
        pytest.param([(32, 2.1), (1, 1.0), (8, 2.0)], Knee(8, 2.0, 1), id="in any order"),
        pytest.param([(1, 2.0), (8, 2.0), (32, 2.0)], Knee(1, 2.0, 0), id="flat from the first"),
        pytest.param([(1, 1.0), (8, 3.0), (32, 1.5)], Knee(8, 3.0, 1), id="it falls beyond"),
        pytest.param([(1, 1.0), (2, 1.8), (8, 2.0)], Knee(2, 1.8, 1), id="exactly the share"),
        pytest.param([(1, 1.0), (2, 1.79), (8, 2.0)], None, id="just below the share"),
        pytest.param([(1, 1.0), (8, 8.0), (32, 32.0)], None, id="it still grows"),
        pytest.param([(1, 1.0), (8, 1.0)], None, id="two levels"),
        pytest.param([(1, 1.0), (1, 1.0), (8, 1.0)], None, id="two levels, one twice"),
        pytest.param([(1, 0.0), (2, 0.0), (3, 0.0)], None, id="nothing at all"),
        pytest.param([], None, id="no level"),
    ],
)
def test_the_knee_is_the_smallest_number_that_brings_nearly_the_most(
    points: list[tuple[int, float]], knee: Knee | None
) -> None:
    assert find_knee(levels(*points)) == knee
