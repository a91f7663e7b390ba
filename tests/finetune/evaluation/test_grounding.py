"""Phrase grounding and segmentation metrics."""

import math

import pytest

from finetune.evaluation.grounding import find_phrase_hits, is_hit
from finetune.evaluation.segmentation import compute_mean_iou, compute_overall_iou, measure_overlap
from prompts.annotations import Box, Polygon


def box(label: str, x: float, score: float | None = None) -> Box:
    return Box(label=label, box=(x, 0, x + 10, 10), score=score)


def test_the_box_with_the_highest_score_decides() -> None:
    assert is_hit([box("", 0, 0.9), box("", 50, 0.2)], [box("cat", 1)])
    assert not is_hit([box("", 0, 0.1), box("", 50, 0.2)], [box("cat", 1)])
    assert is_hit([box("", 0), box("", 50)], [box("cat", 1)])  # the first, if the scores are equal
    assert is_hit([box("", 50)], [box("a", 0), box("a", 50)])  # any of a phrase's boxes
    assert not is_hit([], [box("cat", 0)])
    assert not is_hit([box("", 0)], [])


def test_each_phrase_has_its_own_hit() -> None:
    truth = [box("a cat", 0), box("two dogs", 50), box("two dogs", 70)]
    predicted = [box("A cat", 50, 0.9), box("a cat", 0, 0.5), box("two dogs", 71, 0.4)]
    assert find_phrase_hits(predicted, truth) == {"a cat": False, "two dogs": True}


def square(x: float, side: float) -> Polygon:
    return Polygon(polygons=[[x, 0, x + side, 0, x + side, side, x, side]])


def test_mean_and_overall_iou() -> None:
    size = (400, 300)
    small, large = measure_overlap([square(0, 20)], [square(0, 20)], size), measure_overlap([], [square(0, 200)], size)
    assert small.iou == 1
    assert large.iou == 0
    assert compute_mean_iou([small, large]) == 0.5
    assert compute_overall_iou([small, large]) == pytest.approx(20**2 / (20**2 + 200**2), abs=0.01)
    assert measure_overlap([square(0, 100), square(100, 100)], [square(100, 100)], size).iou == pytest.approx(
        0.5, abs=0.02
    )
    assert measure_overlap([], [], size).iou == 1
    assert math.isnan(compute_mean_iou([]))
    assert math.isnan(compute_overall_iou([]))
