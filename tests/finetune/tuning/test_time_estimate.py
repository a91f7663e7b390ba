"""The time that is left: steady, with validations."""

import random
from itertools import pairwise

import pytest

from finetune.tuning.config import TuneConfig
from finetune.tuning.time_estimate import TimeEstimate, format_duration


def test_the_estimate_contains_steps_and_validations() -> None:
    estimate = TimeEstimate(TuneConfig(steps=120, evaluate_every=50))
    estimate.add_validation(20.0)
    estimate.add_step(60.0)  # the first one, which starts everything
    assert estimate.compute_left(1) is None
    for _ in range(3):
        estimate.add_step(2.0)
    assert estimate.compute_left(4) == pytest.approx(116 * 2 + 3 * 20)
    assert [estimate.count_validations(step) for step in (0, 49, 50, 100, 119, 120)] == [3, 3, 2, 1, 1, 0]


def test_the_estimate_does_not_jump() -> None:
    config, rng = TuneConfig(steps=400, evaluate_every=50), random.Random(0)
    estimate, left = TimeEstimate(config), list[float]()
    estimate.add_validation(20.0)
    for step in range(1, 401):
        estimate.add_step(rng.uniform(0.5, 1.5) * (8 if step % 40 == 0 else 1))
        if step % 50 == 0:
            estimate.add_validation(rng.uniform(15, 25))
        if step > 30:
            left.append(estimate.compute_left(step) or 0.0)
    assert max(b - a for a, b in pairwise(left)) < 0.15 * left[0]
    assert left[-1] == 0


@pytest.mark.parametrize(
    ("seconds", "text", "exact"),
    [
        (0.4, "0 s", "0 s"), (42.4, "42 s", "42 s"), (200, "3 min", "3 min 20 s"), (3599, "60 min", "59 min 59 s"),
        (12_000, "3 h 20 min", "3 h 20 min"),
    ],
)  # fmt: skip
def test_durations_are_short(seconds: float, text: str, exact: str) -> None:
    assert format_duration(seconds) == text
    assert format_duration(seconds, exact=True) == exact
