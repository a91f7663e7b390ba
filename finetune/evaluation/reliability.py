"""Whether scores tell right from wrong, and are as high as often as they are right."""

from collections.abc import Iterable

import numpy as np


def auroc(scores: Iterable[tuple[float, bool]]) -> float:
    """The chance that a right answer scores higher than a wrong one (ties count half); nan without both kinds."""
    pairs = list(scores)
    right = np.array([s for s, ok in pairs if ok])
    wrong = np.sort([s for s, ok in pairs if not ok])
    if not len(right) or not len(wrong):
        return float("nan")
    below = np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")
    return float(below.sum() / (2 * len(right) * len(wrong)))
