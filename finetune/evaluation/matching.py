"""Which answer is which true thing: overlap of shapes, and matching by it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from labels.shapes import bounds, moved
from prompts.annotations import Annotation, Box, Polygon, Quad

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
    first, second = mask(a, size), mask(b, size)
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 0.0


def mask(rings: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """The pixels of a picture of `size` (width, height) that any of the rings covers, as booleans [height, width]."""
    canvas = Image.new("1", size)
    pen = ImageDraw.Draw(canvas)
    for ring in rings:
        if len(ring) >= 4:
            pen.polygon([*ring], fill=1)
    return np.asarray(canvas)


def overlap(a: Annotation, b: Annotation) -> float:
    """Intersection over union of two shapes, 0 where one is a text.

    Polygons and quads pixel by pixel, a box with anything by its bounds: a box around an outline has it right.
    """
    first, second = bounds(a), bounds(b)
    if first is None or second is None:
        return 0.0
    rough = box_iou(first, second)
    if isinstance(a, Box) or isinstance(b, Box) or not rough:
        return rough
    left, top = min(first[0], second[0]), min(first[1], second[1])
    right, bottom = max(first[2], second[2]), max(first[3], second[3])
    size = (int(right - left) + 2, int(bottom - top) + 2)  # all that either covers, and no more of a large picture
    return polygon_iou(_rings(moved(a, -left, -top)), _rings(moved(b, -left, -top)), size)


def _rings(shape: Annotation) -> Sequence[Sequence[float]]:
    return shape.polygons if isinstance(shape, Polygon) else [shape.quad] if isinstance(shape, Quad) else []


def same(a: str, b: str) -> bool:
    """Whether two names of a class are one: case and white space make no other class."""
    return named(a) == named(b)


def named(label: str) -> str:
    """A class's name as `same` compares it."""
    return " ".join(label.split()).casefold()


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
