"""Whether scores tell right from wrong, and are as high as often as they are right."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

Scores = Sequence[tuple[float, bool]]
"""Of each answer, its score, and whether it was right."""

_COLOURS = ("#1f7a4d", "#2767c4", "#dc8a12", "#d1373f")
BINS = 15  # as Guo et al. 2017 have them


def auroc(scores: Iterable[tuple[float, bool]]) -> float:
    """The chance that a right answer scores higher than a wrong one (ties count half); nan without both kinds."""
    pairs = list(scores)
    right = np.array([s for s, ok in pairs if ok])
    wrong = np.sort([s for s, ok in pairs if not ok])
    if not len(right) or not len(wrong):
        return float("nan")
    below = np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")
    return float(below.sum() / (2 * len(right) * len(wrong)))


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose scores lie between `low` and `high`: how many, their mean score, the share that is right."""

    low: float
    high: float
    count: int
    score: float
    right: float


def reliability(scores: Scores, bins: int = BINS) -> list[Bin]:
    """The answers by score, in bins of equal width; those without answers are left out."""
    if not scores:
        return []
    values, right = np.array([s for s, _ in scores]), np.array([ok for _, ok in scores], dtype=float)
    places = np.clip((values * bins).astype(int), 0, bins - 1)
    return [
        Bin(i / bins, (i + 1) / bins, int(own.sum()), float(values[own].mean()), float(right[own].mean()))
        for i in range(bins)
        if (own := places == i).any()
    ]


def ece(scores: Scores, bins: int = BINS) -> float:
    """The expected calibration error: how far a bin's mean score is from its share of right answers, the mean over
    answers (Naeini et al. 2015; Guo et al. 2017, equation 3). 0 is perfect; nan of no answers."""
    found = reliability(scores, bins)
    return sum(b.count * abs(b.score - b.right) for b in found) / len(scores) if found else float("nan")


def plot(path: Path, series: dict[str, Scores]) -> None:
    """A reliability diagram of one or more sets of answers, by name: the share that is right over the score, and below
    how many answers have that score. The file's ending says its format."""
    from matplotlib.figure import Figure  # without pyplot, which keeps figures and wants a display

    figure = Figure(figsize=(4.8, 5.4), dpi=130, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="#98a49f", linestyle="--", linewidth=1)
    for color, (name, scores) in zip(cycle(_COLOURS), series.items(), strict=False):
        bins = reliability(scores)
        words = f"{name}: {len(scores):,} answers, ECE {ece(scores):.3f}"
        upper.plot([b.score for b in bins], [b.right for b in bins], "o-", color=color, label=words, markersize=4)
        edges, counts = [b.low for b in bins], [b.count for b in bins]
        lower.bar(edges, counts, 1 / BINS, align="edge", color=color, alpha=0.5)
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that is right")
    lower.set(xlabel="score", ylabel="answers")
    upper.legend(loc="upper left", fontsize=8, frameon=False)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
