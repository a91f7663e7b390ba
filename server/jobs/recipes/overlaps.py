"""Overlaps of findings by their bounding boxes, and non-maximum suppression."""

import functools
import warnings
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt

from labels.geometry import Rectangle
from server.jobs.recipes.findings import Finding

Matrix = npt.NDArray[np.float32]


def compute_iou(one: Sequence[Finding], other: Sequence[Finding]) -> Matrix:
    """Returns the intersection over union of every pair, (one, other). It is 0 for findings without an area."""
    return _compute_overlap(one, other, "IOU")


def compute_ios(one: Sequence[Finding], other: Sequence[Finding]) -> Matrix:
    """Returns the intersection over the smaller box of every pair, (one, other)."""
    return _compute_overlap(one, other, "IOS")


def compare_labels(one: Sequence[Finding], other: Sequence[Finding]) -> npt.NDArray[np.bool_]:
    """Returns whether the labels are equal, for every pair, (one, other)."""
    return np.array([[a.label == b.label for b in other] for a in one], bool).reshape(len(one), len(other))


def suppress_overlaps(findings: Sequence[Finding], min_iou: float, *, class_agnostic: bool = False) -> list[Finding]:
    """Non-maximum suppression: drops each finding that overlaps one with a higher score by `min_iou` or more.

    Of equal scores the first finding stays. The result is in the original order.
    """
    conflicts = compute_iou(findings, findings) >= min_iou
    if not class_agnostic:
        conflicts &= compare_labels(findings, findings)
    return select_greedily(findings, conflicts, sorted(range(len(findings)), key=lambda i: -findings[i].score))


def select_greedily(
    findings: Sequence[Finding], conflicts: npt.NDArray[np.bool_], order: Sequence[int]
) -> list[Finding]:
    """Selects findings in `order`, skips those in conflict with a selected one, and returns them in the original
    order."""
    selected: list[int] = []
    for index in order:
        if not conflicts[index, selected].any():
            selected.append(index)
    return [findings[index] for index in sorted(selected)]


def compute_box_overlap(one: Sequence[Rectangle], other: Sequence[Rectangle], metric: str = "IOU") -> Matrix:
    """Returns the overlap of every pair of boxes, (one, other): intersection over union (IOU) or over the smaller box
    (IOS)."""
    supervision = _import_supervision()
    boxes = (np.array(each, float).reshape(-1, 4) for each in (one, other))
    return np.asarray(supervision.box_iou_batch(*boxes, supervision.OverlapMetric(metric)), np.float32)


def _compute_overlap(one: Sequence[Finding], other: Sequence[Finding], metric: str) -> Matrix:
    return compute_box_overlap(_list_boxes(one), _list_boxes(other), metric)


@functools.cache
def _import_supervision() -> ModuleType:
    """Imports supervision on first use, since that takes a second.

    Warning filters are global and jobs have many threads, so the filter is changed only here, once.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about missing OpenCV
        import supervision

    return supervision


def _list_boxes(findings: Sequence[Finding]) -> list[Rectangle]:
    return [each.box or (0.0, 0.0, 0.0, 0.0) for each in findings]
