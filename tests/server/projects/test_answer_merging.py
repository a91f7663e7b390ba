"""Merging the answers of several models."""

import pytest

from prompts.annotations import Box
from server.projects.answer_merging import merge_answers
from server.store.projects.ensembles import BoxFusion, LabelRouting


def box(label: str, x: float) -> Box:
    return Box(label=label, box=(x, 0.0, x + 10.0, 10.0), score=0.5)


def test_answers_are_fused() -> None:
    fusion = BoxFusion(combine="fuse", models=(1, None), weights=(3.0, 1.0))
    (fused,) = merge_answers(fusion, [[box("cat", 0)], [box("cat", 2)]])
    assert isinstance(fused, Box)
    assert fused.box[0] == pytest.approx(0.5)
    strict = BoxFusion(combine="fuse", models=(1, 2), min_score=0.3)
    (both,) = merge_answers(strict, [[box("cat", 0), box("dog", 40)], [box("cat", 0)]])  # one of two found the dog
    assert both.label == "cat"


def test_answers_are_routed_by_label() -> None:
    routing = LabelRouting(combine="route", models=(1, 2), routes={"cat": 1}, default=2)
    assert merge_answers(routing, [[box("cat", 0), box("dog", 1)], [box("cat", 2), box("dog", 3)]]) == [
        box("cat", 0),
        box("dog", 3),
    ]
