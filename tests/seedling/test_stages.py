"""How a stage's rate and targets go."""

import pytest

from seedling.stages import Stage


def test_rate_warms_up_holds_and_cools_down() -> None:
    stage = Stage("x", 1000, rate=2.0, warmup=100, cooldown=0.25)
    assert [stage.rate_at(s) for s in (0, 49, 99, 500, 750)] == pytest.approx([0.02, 1.0, 2.0, 2.0, 2.0])
    assert [stage.rate_at(s) for s in (875, 999)] == pytest.approx([1.0, 2.0 / 250])
    rates = [stage.rate_at(s) for s in range(1000)]
    assert rates[:751] == sorted(rates[:751])
    assert rates[750:] == sorted(rates[750:], reverse=True)
    assert min(rates) > 0


@pytest.mark.parametrize("warmup", [0, 1])
def test_rate_without_warm_up_or_cool_down_is_constant(warmup: int) -> None:
    stage = Stage("x", 10, rate=0.5, warmup=warmup)
    assert {stage.rate_at(s) for s in range(10)} == {0.5}


def test_sigma_narrows_geometrically_to_two_thirds() -> None:
    stage = Stage("x", 900, sigma=(10.0, 2.5))
    assert [stage.sigma_at(s) for s in (0, 300, 600, 899)] == pytest.approx([10.0, 5.0, 2.5, 2.5])
    assert Stage("x", 900).sigma_at(700) == 10.0
