"""The paired bootstrap: how much two models differ on the same images, and how certain the difference is."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from finetune.evaluation.corrections import CorrectionCounts

RESAMPLES = 10_000
_BATCH = 500  # resamples at a time: bounds the memory


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The metric of champion and challenger on all images, and the distribution of the difference.

    `low` and `high`: the 95 % interval of challenger minus champion; `better`: the probability that the challenger is
    better, ties count half.
    """

    champion: float
    challenger: float
    low: float
    high: float
    better: float

    @property
    def value(self) -> float:
        """Challenger minus champion, on all images."""
        return self.challenger - self.champion


def compare_paired(
    champion: Sequence[tuple[float, float]],
    challenger: Sequence[tuple[float, float]],
    *,
    lower_is_better: bool,
    scale: float = 1.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Compares two models by a paired bootstrap over images with the percentile interval.

    Efron and Tibshirani 1993; Koehn 2004, section 4. Both sequences have two sums for each image, in the same order.
    The metric is `scale` times the first over the second, both summed over images: corrections over labels, character
    edits over characters, correct answers over answers. Each resample draws images with replacement, the same for both
    models. Raises ValueError for sequences of different length, without images, or with a second sum of 0.
    """
    if len(champion) != len(challenger) or not len(champion):
        raise ValueError(f"a paired bootstrap needs the same images: got {len(champion)} and {len(challenger)}")
    columns = np.hstack([np.asarray(champion, np.float64), np.asarray(challenger, np.float64)]).T  # [4, images]
    totals = columns.sum(1)
    if not (totals[1::2] > 0).all():
        raise ValueError("the images have no labels, so there is nothing to compare")

    def difference(indices: np.ndarray, axis: int) -> np.ndarray:
        a, b, c, d = (column[indices.astype(int)].sum(axis) for column in columns)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(scale * (c / d) - scale * (a / b))

    images = np.arange(columns.shape[1])
    if len(images) > 1:
        with warnings.catch_warnings():  # about the interval of scipy, which is not used
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (images,), difference, n_resamples=resamples, batch=_BATCH, vectorized=True, method="percentile",
                rng=np.random.default_rng(seed),
            )  # fmt: skip
        differences = result.bootstrap_distribution
    else:  # scipy needs two observations; all resamples of one image are the same
        differences = difference(images, 0)[None]
    differences = differences[np.isfinite(differences)]  # a resample of images without labels has no metric
    low, high = np.percentile(differences, [2.5, 97.5])
    wins = (differences < 0) if lower_is_better else (differences > 0)
    better = float(wins.mean() + 0.5 * (differences == 0).mean())
    first, second = (scale * totals[::2] / totals[1::2]).tolist()
    return PairedDifference(first, second, float(low), float(high), better)


def compute_luck(
    before: Sequence[float],
    candidates: Sequence[Sequence[float]],
    weights: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Returns how probable it is that chance alone makes the best of several candidates as good as it is.

    The reality check of White 2000 (Econometrica 68, 1097-1126): of many candidates one is the best on these images
    also if none of them is better. Errors of `before` and of each candidate, and `weights`, such as the numbers of
    labels, have one entry for each image. The metric is the sum of errors over the sum of weights. Raises ValueError
    without candidates, for fewer than two images, and if all weights are 0.
    """
    counts = np.asarray(weights, np.float64)
    if not len(candidates) or len(counts) < 2 or not counts.sum() > 0:
        raise ValueError("the reality check needs candidates, and at least two images with labels")
    gains = np.asarray(before, np.float64) - np.asarray(candidates, np.float64)  # [candidates, images]
    observed = gains.sum(1) / counts.sum()
    rng, as_good = np.random.default_rng(seed), 0.0
    images, drawn = len(counts), 0
    for start in range(0, resamples, _BATCH):
        size = min(_BATCH, resamples - start)
        draws = rng.multinomial(images, np.full(images, 1 / images), size=size).astype(np.float64)  # [size, images]
        totals = draws @ counts
        valid = totals > 0  # a resample of images without labels has no metric
        resampled = (draws[valid] @ gains.T) / totals[valid, None]
        excess = (resampled - observed).max(1) - observed.max()
        as_good += float((excess > 1e-12).sum() + 0.5 * (np.abs(excess) <= 1e-12).sum())
        drawn += int(valid.sum())
    return as_good / drawn


def compare_corrections(
    champion: Sequence[CorrectionCounts], challenger: Sequence[CorrectionCounts], *, seed: int = 0
) -> PairedDifference:
    """Compares two models by corrections per 100 labels. The sequences have one entry for each image."""
    first, second = [[(float(c.total), float(c.labels)) for c in side] for side in (champion, challenger)]
    return compare_paired(first, second, lower_is_better=True, scale=100.0, seed=seed)
