"""Which findings lie on one another, by their upright boxes, and which of those stay."""

import functools
import warnings
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt

from server.jobs.recipes.findings import Finding

Matrix = npt.NDArray[np.float32]


def iou(one: Sequence[Finding], other: Sequence[Finding]) -> Matrix:
    """Intersection over union of every pair, (one, other); 0 of what has no area."""
    return _overlap(one, other, "IOU")


def inside(one: Sequence[Finding], other: Sequence[Finding]) -> Matrix:
    """Intersection over the smaller box of every pair, (one, other)."""
    return _overlap(one, other, "IOS")


def same_label(one: Sequence[Finding], other: Sequence[Finding]) -> npt.NDArray[np.bool_]:
    return np.array([[a.label == b.label for b in other] for a in one], bool).reshape(len(one), len(other))


def suppressed(found: Sequence[Finding], at: float, *, across_labels: bool = False) -> list[Finding]:
    """Those that no surer one overlaps at an IoU of `at` or more, in their order; of equals the first stays."""
    conflicts = iou(found, found) >= at
    if not across_labels:
        conflicts &= same_label(found, found)
    return first_of(found, conflicts, sorted(range(len(found)), key=lambda i: -found[i].score))


def first_of(found: Sequence[Finding], conflicts: npt.NDArray[np.bool_], order: Sequence[int]) -> list[Finding]:
    """Takes one after the other in `order`, unless it is in conflict with one taken; those taken, as they stood."""
    taken: list[int] = []
    for index in order:
        if not conflicts[index, taken].any():
            taken.append(index)
    return [found[index] for index in sorted(taken)]


def _overlap(one: Sequence[Finding], other: Sequence[Finding], metric: str) -> Matrix:
    supervision = _supervision()
    boxes = _boxes(one), _boxes(other)
    return np.asarray(supervision.box_iou_batch(*boxes, supervision.OverlapMetric(metric)), np.float32)


@functools.cache
def _supervision() -> ModuleType:
    """It takes a second: not for every start of a server. Filters of warnings are the whole process's, and jobs have
    many threads: they are changed this once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it does without OpenCV
        import supervision

    return supervision


def _boxes(found: Sequence[Finding]) -> npt.NDArray[np.float64]:
    return np.array([each.box or (0, 0, 0, 0) for each in found], float).reshape(-1, 4)
