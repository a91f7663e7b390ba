"""The schedules of a stage."""

import pytest

from seedling.stages import Stage


def test_the_learning_rate_warms_up_stays_and_cools_down() -> None:
    stage = Stage("x", 1000, learning_rate=2.0, warmup=100, cooldown=0.25)
    assert [stage.compute_learning_rate(s) for s in (0, 49, 99, 500, 750)] == pytest.approx([0.02, 1.0, 2.0, 2.0, 2.0])
    assert [stage.compute_learning_rate(s) for s in (875, 999)] == pytest.approx([1.0, 2.0 / 250])
    rates = [stage.compute_learning_rate(s) for s in range(1000)]
    assert rates[:751] == sorted(rates[:751])
    assert rates[750:] == sorted(rates[750:], reverse=True)
    assert min(rates) > 0


@pytest.mark.parametrize("warmup", [0, 1])
def test_the_learning_rate_is_constant_without_warmup_and_cooldown(warmup: int) -> None:
    stage = Stage("x", 10, learning_rate=0.5, warmup=warmup)
    assert {stage.compute_learning_rate(s) for s in range(10)} == {0.5}


def test_sigma_shrinks_geometrically_over_two_thirds_of_the_steps() -> None:
    stage = Stage("x", 900, sigma=(10.0, 2.5))
    assert [stage.compute_sigma(s) for s in (0, 300, 600, 899)] == pytest.approx([10.0, 5.0, 2.5, 2.5])
    assert Stage("x", 900).compute_sigma(700) == 10.0
