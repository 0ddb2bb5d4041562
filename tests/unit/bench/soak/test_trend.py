"""What grows is told from what varies."""

from __future__ import annotations

import random

import pytest

from bench.soak.trend import FEWEST, WARM_UP, judge


def life(slope: float, rounds: int = 60, *, noise: float = 1.0, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [100 + slope * i + chance.uniform(-noise, noise) for i in range(rounds)]


def test_noise_does_not_grow() -> None:
    assert not any(judge([life(0, seed=seed)], 0.5).is_growing for seed in range(100))


def test_a_slow_leak_in_noise_is_seen() -> None:
    found = judge([life(0.1)], 1.0)
    assert found.is_growing
    assert found.growth == pytest.approx(0.1 * (60 - WARM_UP), rel=0.3)


def test_a_leak_that_every_new_process_forgets_is_seen() -> None:
    assert judge([life(0.1, seed=seed) for seed in range(3)], 1.0).is_growing


def test_one_sample_that_is_far_off_decides_nothing() -> None:
    samples = life(0)
    samples[-1] = 100_000
    assert not judge([samples], 0.5).is_growing


def test_growth_that_is_allowed_is_none() -> None:
    found = judge([life(0.01, noise=0.001)], 5.0)
    assert found.p is not None
    assert found.p < 0.01
    assert not found.is_growing


def test_warming_up_does_not_count() -> None:
    assert not judge([[float(i) for i in range(WARM_UP)] + life(0, 40)[:40]], 0.5).is_growing


def test_the_same_value_throughout_is_flat() -> None:
    assert judge([[6.0] * 60], 0.0).p == 1.0


def test_too_few_samples_say_nothing() -> None:
    assert judge([[1.0] * (WARM_UP + FEWEST - 1)], 0.0).p is None
