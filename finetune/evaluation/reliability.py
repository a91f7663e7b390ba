"""Quality of scores: whether they separate correct answers from wrong ones, and whether they are calibrated."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

Scores = Sequence[tuple[float, bool]]
"""The score of each answer, and whether the answer is correct."""

_COLORS = ("#1f7a4d", "#2767c4", "#dc8a12", "#d1373f")
BINS = 15  # as in Guo et al. 2017


def compute_auroc(scores: Iterable[tuple[float, bool]]) -> float:
    """Returns the probability that a correct answer scores higher than a wrong one.

    Ties count half. nan unless there are correct and wrong answers.
    """
    pairs = list(scores)
    correct = np.array([s for s, ok in pairs if ok])
    wrong = np.sort([s for s, ok in pairs if not ok])
    if not len(correct) or not len(wrong):
        return float("nan")
    below = np.searchsorted(wrong, correct, "left") + np.searchsorted(wrong, correct, "right")
    return float(below.sum() / (2 * len(correct) * len(wrong)))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The answers with scores from `low` to `high`.

    `count`: how many; `score`: their mean score; `accuracy`: the share of them that is correct.
    """

    low: float
    high: float
    count: int
    score: float
    accuracy: float


def bin_scores(scores: Scores, bins: int = BINS) -> list[ReliabilityBin]:
    """Groups the answers by score into bins of equal width; empty bins are left out."""
    if not scores:
        return []
    values, correct = np.array([s for s, _ in scores]), np.array([ok for _, ok in scores], dtype=float)
    indices = np.clip((values * bins).astype(int), 0, bins - 1)
    return [
        ReliabilityBin(i / bins, (i + 1) / bins, int(own.sum()), float(values[own].mean()), float(correct[own].mean()))
        for i in range(bins)
        if (own := indices == i).any()
    ]


def compute_ece(scores: Scores, bins: int = BINS) -> float:
    """Returns the expected calibration error: the mean difference of a bin's score and accuracy, over all answers.

    Naeini et al. 2015; Guo et al. 2017, equation 3. 0 is perfect; nan if there are no answers.
    """
    found = bin_scores(scores, bins)
    return sum(b.count * abs(b.score - b.accuracy) for b in found) / len(scores) if found else float("nan")


def plot_reliability(path: Path, series: dict[str, Scores]) -> None:
    """Draws a reliability diagram of one or more named series: accuracy over score, and a histogram of the scores.

    The suffix of `path` decides the image format.
    """
    from matplotlib.figure import Figure  # pyplot would keep figures and need a display

    figure = Figure(figsize=(4.8, 5.4), dpi=130, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="#98a49f", linestyle="--", linewidth=1)
    for color, (name, scores) in zip(cycle(_COLORS), series.items(), strict=False):
        bins = bin_scores(scores)
        label = f"{name}: {len(scores):,} answers, ECE {compute_ece(scores):.3f}"
        upper.plot([b.score for b in bins], [b.accuracy for b in bins], "o-", color=color, label=label, markersize=4)
        edges, counts = [b.low for b in bins], [b.count for b in bins]
        lower.bar(edges, counts, 1 / BINS, align="edge", color=color, alpha=0.5)
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    lower.set(xlabel="score", ylabel="answers")
    upper.legend(loc="upper left", fontsize=8, frameon=False)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
