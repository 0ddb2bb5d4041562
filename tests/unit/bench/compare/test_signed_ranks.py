"""Chance is told from change, by ranks."""

from __future__ import annotations

import itertools
import random

import pytest

from bench.compare import signed_ranks
from bench.compare.signed_ranks import holm, judge_shift, two_sided_p


def by_counting(differences: list[float]) -> float:
    """The p of a small sample, by trying all its signs."""
    sizes = sorted(abs(d) for d in differences)
    ranks = [sizes.index(abs(d)) + (sizes.count(abs(d)) + 1) / 2 for d in differences]
    seen = abs(sum(r if d > 0 else -r for r, d in zip(ranks, differences, strict=True)))
    signs = list(itertools.product((1, -1), repeat=len(ranks)))
    sums = [abs(sum(s * r for s, r in zip(sign, ranks, strict=True))) for sign in signs]
    return sum(total >= seen for total in sums) / len(signs)


@pytest.mark.parametrize("seed", range(20))
def test_p_is_what_counting_all_signs_gives(seed: int) -> None:
    draw = random.Random(seed)
    # Rounded, so that some are equal.
    values = [round(draw.gauss(0.3, 1), 1) or 0.1 for _ in range(draw.randint(1, 11))]
    assert two_sided_p(values) == pytest.approx(by_counting(values))


def test_many_pairs_are_judged_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(5)
    values = [draw.gauss(0.2, 1) for _ in range(60)]
    exact = two_sided_p(values)
    monkeypatch.setattr(signed_ranks, "EXACT_TO", 10)
    assert two_sided_p(values) == pytest.approx(exact, rel=0.05)


def test_no_difference_at_all_is_chance() -> None:
    assert two_sided_p([0.0, 0.0]) == 1.0


def test_no_pairs_are_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured in both"):
        judge_shift([], 0.95)


def test_the_interval_holds_the_true_shift_as_often_as_it_says() -> None:
    draw = random.Random(7)
    held = 0
    for _ in range(400):
        # Skewed stalls on both sides, as a difference of two noisy times has them.
        values = [0.1 + draw.expovariate(20) - draw.expovariate(20) for _ in range(16)]
        shift = judge_shift(values, 0.95)
        held += shift.low <= 0.1 <= shift.high
    assert 0.92 <= held / 400 <= 1.0


def test_one_stalled_sample_hardly_moves_the_estimate() -> None:
    calm = [0.01, -0.02, 0.0, 0.02, -0.01, 0.015, -0.015, 0.005]
    assert abs(judge_shift([*calm, 9.0], 0.95).estimate - judge_shift(calm, 0.95).estimate) < 0.01


def test_holm_keeps_the_order_and_never_helps() -> None:
    found = holm([0.04, 0.001, 0.03])
    assert found == pytest.approx([0.06, 0.003, 0.06])
    assert holm([]) == []
