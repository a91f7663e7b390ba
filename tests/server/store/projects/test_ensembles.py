"""What may be combined, and how a combination is put."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from prompts.annotations import Box
from server.store.projects.ensembles import (
    AdapterSum,
    BoxFusion,
    EnsembleDefinition,
    InvalidEnsembleError,
    LabelRouting,
)

READ: TypeAdapter[EnsembleDefinition] = TypeAdapter(EnsembleDefinition)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"combine": "add", "models": []}, "at least 1"),
        ({"combine": "add", "models": [1, 1]}, "model 1 is there twice"),
        ({"combine": "add", "models": [1, None]}, "valid integer"),
        ({"combine": "add", "models": [1, 2], "weights": [1]}, "2 models need as many weights, not 1"),
        ({"combine": "add", "models": [1, 2], "weights": [1, 0]}, "a weight of 0 adds nothing"),
        ({"combine": "add", "models": [1], "weights": [float("nan")]}, "finite"),
        ({"combine": "fuse", "models": [1]}, "at least 2"),
        ({"combine": "fuse", "models": [None, None]}, "the base is there twice"),
        ({"combine": "fuse", "models": [1, None], "weights": [1, -1]}, "greater than 0"),
        ({"combine": "fuse", "models": [1, None], "overlap": 1}, "less than 1"),
        ({"combine": "fuse", "models": list(range(1, 10))}, "at most 8"),
        ({"combine": "route", "models": [1]}, "routes"),
        ({"combine": "route", "models": [1], "routes": {}}, "at least 1"),
        ({"combine": "route", "models": [1], "routes": {"cat": 2}}, "model 2 answers for labels, but is none of"),
        ({"combine": "route", "models": [1, 2], "routes": {"cat": 1}}, "model 2 answers for no label"),
        ({"combine": "route", "models": [1], "routes": {"cat": 1}, "default": 1}, "model 1 answers for all labels"),
        ({"combine": "mean", "models": [1, 2]}, "'add', 'fuse', 'route'"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        READ.validate_python(asked)


def test_what_is_not_said_has_a_meaning() -> None:
    added = READ.validate_python({"combine": "add", "models": [3, 1]})
    assert isinstance(added, AdapterSum)
    assert added.shares == (0.5, 0.5)
    routed = READ.validate_python({"combine": "route", "models": [1], "routes": {"cat": 1}})
    assert isinstance(routed, LabelRouting)
    assert routed.members == (1, None)
    assert READ.validate_json(READ.dump_json(routed)) == routed
    everything = {"combine": "route", "models": [None, 1], "routes": {"cat": 1, "dog": None}, "default": 1}
    assert READ.validate_python(everything).model_dump()["routes"] == {"cat": 1, "dog": None}


def test_only_boxes_can_be_fused_and_only_labels_routed() -> None:
    fusion, routing = (
        BoxFusion(combine="fuse", models=(1, 2)),
        LabelRouting(combine="route", models=(1,), routes={"cat": 1}),
    )
    for token in ("<OD>", "<DENSE_REGION_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>"):
        fusion.check(token)
        routing.check(token)
    routing.check("<OPEN_VOCABULARY_DETECTION>")
    AdapterSum(combine="add", models=(1,)).check("<CAPTION>")
    for combined, token in ((fusion, "<OPEN_VOCABULARY_DETECTION>"), (fusion, "<OCR>"), (routing, "<CAPTION>")):
        with pytest.raises(InvalidEnsembleError, match=token):
            combined.check(token)


def test_answers_are_merged() -> None:
    def box(label: str, x: float) -> Box:
        return Box(label=label, box=(x, 0.0, x + 10.0, 10.0), score=0.5)

    fusion = BoxFusion(combine="fuse", models=(1, None), weights=(3.0, 1.0))
    (fused,) = fusion.merged([[box("cat", 0)], [box("cat", 2)]])
    assert isinstance(fused, Box)
    assert fused.box[0] == pytest.approx(0.5)
    sure = BoxFusion(combine="fuse", models=(1, 2), min_score=0.3)
    (both,) = sure.merged([[box("cat", 0), box("dog", 40)], [box("cat", 0)]])  # only one of two says dog
    assert both.label == "cat"
    routing = LabelRouting(combine="route", models=(1, 2), routes={"cat": 1}, default=2)
    assert routing.merged([[box("cat", 0), box("dog", 1)], [box("cat", 2), box("dog", 3)]]) == [
        box("cat", 0),
        box("dog", 3),
    ]
