"""Champion against challenger on the same pictures: by how much do they differ, and is that more than luck?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.evaluation.corrections import Tally

SAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Difference:
    """Challenger less champion. `low`, `high`: the 95 % interval; `better`: how likely the challenger is the better
    one, ties half."""

    champion: float
    challenger: float
    low: float
    high: float
    better: float

    @property
    def value(self) -> float:
        """Of the figures on all pictures."""
        return self.challenger - self.champion


def paired(
    champion: Sequence[tuple[float, float]],
    challenger: Sequence[tuple[float, float]],
    *,
    lower_is_better: bool,
    scale: float = 1.0,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Difference:
    """The paired bootstrap over pictures (Efron and Tibshirani 1993; the percentile interval; Koehn 2004, section 4).

    Of each picture, in the same order on both sides, two sums: the figure is `scale` times the first over the second,
    both summed over the pictures (corrections over labels, letters wrong over letters, right answers over answers).
    Each sample draws pictures with replacement, the same on both sides. Raises ValueError for sides of different
    length, for no pictures, and where nothing is in the second sum.
    """
    sides = np.asarray([champion, challenger], dtype=np.float64) if len(champion) == len(challenger) else None
    if sides is None or not len(champion):
        raise ValueError(f"a paired bootstrap needs the same pictures: got {len(champion)} and {len(challenger)}")
    whole = sides.sum(1)
    if not (whole[:, 1] > 0).all():
        raise ValueError("the pictures have no labels, so there is nothing to compare on")
    rng = np.random.default_rng(seed)
    count = len(champion)
    differences = []
    for block in range(0, samples, 500):  # so that memory does not grow with the samples
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(500, samples - block))
        sums = np.einsum("sp,apk->ask", drawn, sides)
        known = (sums[..., 1] > 0).all(0)  # a sample of pictures without labels says nothing
        figures = scale * sums[:, known, 0] / sums[:, known, 1]
        differences.append(figures[1] - figures[0])
    found = np.concatenate(differences)
    low, high = np.percentile(found, [2.5, 97.5])
    wins = (found < 0) if lower_is_better else (found > 0)
    first, second = (scale * whole[:, 0] / whole[:, 1]).tolist()
    return Difference(first, second, float(low), float(high), float(wins.mean() + 0.5 * (found == 0).mean()))


def corrections(champion: Sequence[Tally], challenger: Sequence[Tally], *, seed: int = 0) -> Difference:
    """Of corrections per 100 labels, from each picture's tally."""
    sides = [[(float(t.corrections), float(t.labels)) for t in side] for side in (champion, challenger)]
    return paired(sides[0], sides[1], lower_is_better=True, scale=100.0, seed=seed)
