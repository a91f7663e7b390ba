"""Matching of predictions with ground truth: intersection over union, and greedy matching by it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from labels.geometry import bounding_box_or_none, box_iou, translate
from prompts.annotations import Annotation, Box, Polygon, Quad

T = TypeVar("T")


def polygon_iou(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], size: tuple[int, int]) -> float:
    """Returns the intersection over union of two objects, in pixels of an image of `size` (width, height).

    Each object is a list of rings x1, y1, x2, y2 …
    """
    first, second = rasterize(a, size), rasterize(b, size)
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 0.0


def rasterize(rings: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """Returns the mask of all rings on an image of `size` (width, height): booleans [height, width]."""
    canvas = Image.new("1", size)
    pen = ImageDraw.Draw(canvas)
    for ring in rings:
        if len(ring) >= 4:
            pen.polygon([*ring], fill=1)
    return np.asarray(canvas)


def annotation_iou(a: Annotation, b: Annotation) -> float:
    """Returns the intersection over union of two shapes; 0 if one of them is a text.

    Polygons and quads are compared by pixels. If one of the two is a box, the bounds of both are compared, so that a
    tight box around an outline counts as correct.
    """
    first, second = bounding_box_or_none(a), bounding_box_or_none(b)
    if first is None or second is None:
        return 0.0
    iou = box_iou(first, second)
    if isinstance(a, Box) or isinstance(b, Box) or not iou:
        return iou
    left, top = min(first[0], second[0]), min(first[1], second[1])
    right, bottom = max(first[2], second[2]), max(first[3], second[3])
    size = (int(right - left) + 2, int(bottom - top) + 2)  # only the part of the image that the two shapes cover
    return polygon_iou(_list_rings(translate(a, -left, -top)), _list_rings(translate(b, -left, -top)), size)


def _list_rings(shape: Annotation) -> Sequence[Sequence[float]]:
    return shape.polygons if isinstance(shape, Polygon) else [shape.quad] if isinstance(shape, Quad) else []


def is_same_class(a: str, b: str) -> bool:
    """Returns whether two labels name the same class: case and white space do not matter."""
    return normalize_class(a) == normalize_class(b)


def normalize_class(label: str) -> str:
    """Returns the form of a class name that `is_same_class` compares."""
    return " ".join(label.split()).casefold()


@dataclass
class MatchCounts:
    """True positives, false positives and false negatives, summed over images.

    `scores`: for each prediction its score, and whether it is a true positive.
    """

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    scores: list[tuple[float, bool]] = field(default_factory=list)

    def add(self, predicted: Sequence[T], truth: Sequence[T], similarity: Callable[[T, T], float]) -> None:
        """Matches each prediction, the highest score first, with the most similar object that is not matched yet.

        `similarity` returns the IoU, or 0 if the two must not match. A pair needs 0.5 or more, as in PASCAL VOC
        (Everingham et al. 2010, section 4.2).
        """
        free = list(truth)
        for prediction in sorted(predicted, key=lambda p: -(getattr(p, "score", None) or 0.0)):
            similarities = [similarity(prediction, t) for t in free]
            best = int(np.argmax(similarities)) if free else -1
            hit = best >= 0 and similarities[best] >= 0.5
            if hit:
                free.pop(best)
            self.true_positives += hit
            self.false_positives += not hit
            self.scores.append((getattr(prediction, "score", None) or 0.0, hit))
        self.false_negatives += len(free)

    @property
    def precision(self) -> float:
        """The share of predictions that are correct; 1 if there are none."""
        predicted = self.true_positives + self.false_positives
        return self.true_positives / predicted if predicted else 1.0

    @property
    def recall(self) -> float:
        """The share of objects that were found; 1 if there are none."""
        objects = self.true_positives + self.false_negatives
        return self.true_positives / objects if objects else 1.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / total if total else 1.0
