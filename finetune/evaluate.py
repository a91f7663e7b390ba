"""How good answers are: overlap, matching, F1, and whether scores tell right from wrong."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

T = TypeVar("T")


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2; 0 where both are empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def polygon_iou(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], size: tuple[int, int]) -> float:
    """Intersection over union of two instances, each a list of rings x1, y1, x2, y2 …, on the pixels of `size`."""
    first, second = _mask(a, size), _mask(b, size)
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 0.0


def _mask(rings: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    canvas = Image.new("1", size)
    pen = ImageDraw.Draw(canvas)
    for ring in rings:
        pen.polygon([*ring], fill=1)
    return np.asarray(canvas)


@dataclass
class Counts:
    """Right, made-up and missed answers, summed over pictures."""

    right: int = 0
    made_up: int = 0
    missed: int = 0
    scores: list[tuple[float, bool]] = field(default_factory=list)

    def add(self, found: Sequence[T], true: Sequence[T], alike: Callable[[T, T], float]) -> None:
        """Matches each found thing, the surest first, with the most alike true one that is still free.

        `alike` is the overlap, 0 where the two cannot be the same; 0.5 and more counts as right, as in PASCAL VOC
        (Everingham et al. 2010, section 4.2).
        """
        free = list(true)
        for thing in sorted(found, key=lambda t: -(getattr(t, "score", None) or 0.0)):
            likeness = [alike(thing, t) for t in free]
            best = int(np.argmax(likeness)) if free else -1
            hit = best >= 0 and likeness[best] >= 0.5
            if hit:
                free.pop(best)
            self.right += hit
            self.made_up += not hit
            self.scores.append((getattr(thing, "score", None) or 0.0, hit))
        self.missed += len(free)

    @property
    def precision(self) -> float:
        """The share of what was found that is right; 1 where nothing was found."""
        found = self.right + self.made_up
        return self.right / found if found else 1.0

    @property
    def recall(self) -> float:
        """The share of what is there that was found; 1 where nothing is there."""
        there = self.right + self.missed
        return self.right / there if there else 1.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = 2 * self.right + self.made_up + self.missed
        return 2 * self.right / total if total else 1.0


def auroc(scores: Iterable[tuple[float, bool]]) -> float:
    """The chance that a right answer scores higher than a wrong one (ties count half); nan without both kinds."""
    pairs = list(scores)
    right = np.array([s for s, ok in pairs if ok])
    wrong = np.array([s for s, ok in pairs if not ok])
    if not len(right) or not len(wrong):
        return float("nan")
    above = (right[:, None] > wrong).mean()
    return float(above + 0.5 * (right[:, None] == wrong).mean())
