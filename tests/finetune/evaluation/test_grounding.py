"""Places of phrases, and outlines."""

import math

import pytest

from finetune.evaluation.grounding import hit, phrase_hits
from finetune.evaluation.segmentation import areas, mean_iou, overall_iou
from prompts.annotations import Box, Polygon


def box(label: str, x: float, score: float | None = None) -> Box:
    return Box(label=label, box=(x, 0, x + 10, 10), score=score)


def test_the_surest_place_decides() -> None:
    assert hit([box("", 0, 0.9), box("", 50, 0.2)], [box("cat", 1)])
    assert not hit([box("", 0, 0.1), box("", 50, 0.2)], [box("cat", 1)])
    assert hit([box("", 0), box("", 50)], [box("cat", 1)])  # the first, where none is surer
    assert hit([box("", 50)], [box("a", 0), box("a", 50)])  # any of a phrase's boxes
    assert not hit([], [box("cat", 0)])
    assert not hit([box("", 0)], [])


def test_each_phrase_by_its_own_words() -> None:
    true = [box("a cat", 0), box("two dogs", 50), box("two dogs", 70)]
    found = [box("A cat", 50, 0.9), box("a cat", 0, 0.5), box("two dogs", 71, 0.4)]
    assert phrase_hits(found, true) == {"a cat": False, "two dogs": True}


def square(x: float, side: float) -> Polygon:
    return Polygon(polygons=[[x, 0, x + side, 0, x + side, side, x, side]])


def test_mean_and_overall_iou() -> None:
    size = (400, 300)
    small, large = areas([square(0, 20)], [square(0, 20)], size), areas([], [square(0, 200)], size)
    assert small.iou == 1
    assert large.iou == 0
    assert mean_iou([small, large]) == 0.5
    assert overall_iou([small, large]) == pytest.approx(20**2 / (20**2 + 200**2), abs=0.01)
    assert areas([square(0, 100), square(100, 100)], [square(100, 100)], size).iou == pytest.approx(0.5, abs=0.02)
    assert areas([], [], size).iou == 1
    assert math.isnan(mean_iou([]))
    assert math.isnan(overall_iou([]))
