"""The speed of a job is steady, so that the time left does not jump."""

import random
from itertools import pairwise

import pytest

from server.jobs.throughput import RateMeter


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_there_is_no_rate_before_the_first_image() -> None:
    assert RateMeter(Clock()).compute_rate() is None


@pytest.mark.parametrize("seconds", [0.02, 0.5, 8.0, 100.0])
def test_the_rate_is_right_and_steady_for_fast_and_slow_images(seconds: float) -> None:
    clock, rng = Clock(), random.Random(0)
    meter = RateMeter(clock)
    rates = []
    for number in range(600):
        clock.now += seconds * rng.uniform(0.2, 1.8)
        meter.count()
        if number >= 100:
            rates.append(meter.compute_rate() or 0.0)
    assert sum(rates) / len(rates) == pytest.approx(1 / seconds, rel=0.1)
    assert max(abs(a - b) / a for a, b in pairwise(rates)) < 0.06


def test_images_that_end_in_groups_do_not_change_the_rate_much() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    rates = []
    for number in range(40):
        clock.now += 8.0
        for _ in range(16):
            meter.count()
        clock.now += 4.0  # someone looks between two groups
        rates.append(meter.compute_rate() or 0.0)
        clock.now -= 4.0
        if number >= 10:
            assert rates[-1] == pytest.approx(2.0, rel=0.15)


def test_the_rate_falls_when_no_image_ends_anymore() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    for _ in range(100):
        clock.now += 1
        meter.count()
    before = meter.compute_rate()
    clock.now += 600
    after = meter.compute_rate()
    assert before is not None
    assert after is not None
    assert after < 0.2 * before
