"""The paired bootstrap: its intervals hold what they should, and it knows who is better."""

import numpy as np
import pytest

from finetune.evaluation import bootstrap
from finetune.evaluation.bootstrap import paired
from finetune.evaluation.corrections import Tally

Sides = tuple[list[tuple[float, float]], list[tuple[float, float]]]


def sides(seed: int, pictures: int = 60, gain: float = 0.0) -> Sides:
    """Errors of two models on pictures of different difficulty; both find the same pictures hard."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 6, pictures)
    hard = rng.beta(2, 3, pictures)
    first, second = rng.binomial(labels, hard), rng.binomial(labels, np.clip(hard - gain, 0, 1))
    return list(zip(first, labels, strict=True)), list(zip(second, labels, strict=True))


def test_the_figures_are_those_of_all_pictures() -> None:
    found = paired([(1, 4), (3, 4)], [(0, 4), (2, 4)], lower_is_better=True, scale=100)
    assert (found.champion, found.challenger, found.value) == (50, 25, -25)
    assert (found.low, found.high, found.better) == (-25, -25, 1)  # each picture has one less


def test_a_gain_is_seen_and_its_sign_depends_on_the_figure() -> None:
    better = paired(*sides(1, gain=0.3), lower_is_better=True)
    assert better.high < 0
    assert better.better > 0.99
    assert paired(*sides(1, gain=0.3), lower_is_better=False).better < 0.01


def test_the_same_on_both_sides_is_a_tie() -> None:
    champion, _ = sides(2)
    same = paired(champion, champion, lower_is_better=True)
    assert (same.low, same.high, same.better) == (0, 0, 0.5)


def test_one_seed_one_answer() -> None:
    assert paired(*sides(3), lower_is_better=True, seed=5) == paired(*sides(3), lower_is_better=True, seed=5)


def test_the_interval_covers_no_difference_about_nineteen_times_in_twenty() -> None:
    trials = [paired(*sides(100 + seed), lower_is_better=True, samples=500, seed=seed) for seed in range(120)]
    covered = np.mean([trial.low <= 0 <= trial.high for trial in trials])
    assert 0.88 <= covered <= 0.99


def test_pairing_makes_the_interval_narrower_than_shuffled_sides() -> None:
    champion, challenger = sides(4, pictures=200)
    shuffled = [challenger[i] for i in np.random.default_rng(0).permutation(len(challenger))]
    apart = [paired(champion, side, lower_is_better=True, samples=2000) for side in (challenger, shuffled)]
    assert apart[0].high - apart[0].low < apart[1].high - apart[1].low


def test_samples_without_labels_say_nothing() -> None:
    found = paired([(1, 1), (0, 0)], [(0, 1), (0, 0)], lower_is_better=True)
    assert (found.low, found.high) == (-1, -1)


def test_corrections_per_hundred_labels() -> None:
    found = bootstrap.corrections([Tally(missed=1, labels=2)] * 3, [Tally(labels=2)] * 3)
    assert (found.champion, found.challenger, found.better) == (50, 0, 1)


@pytest.mark.parametrize("champion", [[], [(1, 2)], [(0, 0), (0, 0)]])
def test_what_cannot_be_compared_is_refused(champion: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match=r"the same pictures|no labels"):
        paired(champion, [(0, 0)] * (2 if len(champion) > 1 else 0), lower_is_better=True)
