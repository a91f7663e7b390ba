"""The paired bootstrap: the coverage of its intervals, and the probability that a model is better."""

import numpy as np
import pytest

from finetune.evaluation import bootstrap
from finetune.evaluation.bootstrap import compare_paired, compute_luck
from finetune.evaluation.corrections import CorrectionCounts

Pair = tuple[list[tuple[float, float]], list[tuple[float, float]]]


def make_pair(seed: int, images: int = 60, gain: float = 0.0) -> Pair:
    """Errors of two models on images of different difficulty; the same images are hard for both."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 6, images)
    hard = rng.beta(2, 3, images)
    first, second = rng.binomial(labels, hard), rng.binomial(labels, np.clip(hard - gain, 0, 1))
    return list(zip(first, labels, strict=True)), list(zip(second, labels, strict=True))


def test_the_metrics_are_those_of_all_images() -> None:
    found = compare_paired([(1, 4), (3, 4)], [(0, 4), (2, 4)], lower_is_better=True, scale=100)
    assert (found.champion, found.challenger, found.value) == (50, 25, -25)
    assert (found.low, found.high, found.better) == (-25, -25, 1)  # each image has one error less


def test_a_gain_is_detected_and_its_sign_depends_on_the_metric() -> None:
    better = compare_paired(*make_pair(1, gain=0.3), lower_is_better=True)
    assert better.high < 0
    assert better.better > 0.99
    assert compare_paired(*make_pair(1, gain=0.3), lower_is_better=False).better < 0.01


def test_identical_models_tie() -> None:
    champion, _ = make_pair(2)
    same = compare_paired(champion, champion, lower_is_better=True)
    assert (same.low, same.high, same.better) == (0, 0, 0.5)


def test_the_seed_determines_the_result() -> None:
    assert compare_paired(*make_pair(3), lower_is_better=True, seed=5) == compare_paired(
        *make_pair(3), lower_is_better=True, seed=5
    )


def test_the_interval_covers_a_difference_of_zero_in_95_percent_of_trials() -> None:
    trials = [
        compare_paired(*make_pair(100 + seed), lower_is_better=True, resamples=500, seed=seed) for seed in range(120)
    ]
    covered = np.mean([trial.low <= 0 <= trial.high for trial in trials])
    assert 0.88 <= covered <= 0.99


def test_pairing_makes_the_interval_narrower_than_shuffling() -> None:
    champion, challenger = make_pair(4, images=200)
    shuffled = [challenger[i] for i in np.random.default_rng(0).permutation(len(challenger))]
    apart = [compare_paired(champion, side, lower_is_better=True, resamples=2000) for side in (challenger, shuffled)]
    assert apart[0].high - apart[0].low < apart[1].high - apart[1].low


def test_resamples_without_labels_are_ignored() -> None:
    found = compare_paired([(1, 1), (0, 0)], [(0, 1), (0, 0)], lower_is_better=True)
    assert (found.low, found.high) == (-1, -1)


def test_corrections_per_hundred_labels() -> None:
    found = bootstrap.compare_corrections([CorrectionCounts(missed=1, labels=2)] * 3, [CorrectionCounts(labels=2)] * 3)
    assert (found.champion, found.challenger, found.better) == (50, 0, 1)


@pytest.mark.parametrize("champion", [[], [(1, 2)], [(0, 0), (0, 0)]])
def test_results_that_cannot_be_compared_are_refused(champion: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match=r"the same images|no labels"):
        compare_paired(champion, [(0, 0)] * (2 if len(champion) > 1 else 0), lower_is_better=True)


def test_the_best_of_many_models_may_be_luck() -> None:
    rng = np.random.default_rng(0)
    before, *candidates = rng.binomial(3, 0.3, (21, 40)).astype(float)
    best = min(candidates, key=sum)
    many = compute_luck(before, candidates, [3.0] * 40, resamples=2000)
    assert compute_luck(before, [best], [3.0] * 40, resamples=2000) < many
    assert compute_luck(before, [*candidates, best * 0.2], [3.0] * 40, resamples=2000) < 0.01
    assert compute_luck(before, [before, before], [3.0] * 40, resamples=100) == 0.5


@pytest.mark.parametrize(
    ("before", "candidates", "weights"),
    [([1.0], [[0.0]], [1.0]), ([1.0, 1.0], [], [1.0, 1.0]), ([1, 1], [[0, 0]], [0, 0])],
)
def test_luck_needs_candidates_and_images(
    before: list[float], candidates: list[list[float]], weights: list[float]
) -> None:
    with pytest.raises(ValueError, match="the reality check needs candidates"):
        compute_luck(before, candidates, weights)
