"""Definitions of ensembles: what is valid, and what the defaults mean."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from server.store.projects.ensembles import AdapterSum, EnsembleDefinition, LabelRouting

ADAPTER: TypeAdapter[EnsembleDefinition] = TypeAdapter(EnsembleDefinition)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"combine": "add", "models": []}, "at least 1"),
        ({"combine": "add", "models": [1, 1]}, "model 1 appears twice"),
        ({"combine": "add", "models": [1, None]}, "valid integer"),
        ({"combine": "add", "models": [1, 2], "weights": [1]}, "2 models need 2 weights, not 1"),
        ({"combine": "add", "models": [1, 2], "weights": [1, 0]}, "a weight of 0 has no effect"),
        ({"combine": "add", "models": [1], "weights": [float("nan")]}, "finite"),
        ({"combine": "fuse", "models": [1]}, "at least 2"),
        ({"combine": "fuse", "models": [None, None]}, "the base model appears twice"),
        ({"combine": "fuse", "models": [1, None], "weights": [1, -1]}, "greater than 0"),
        ({"combine": "fuse", "models": [1, None], "iou_threshold": 1}, "less than 1"),
        ({"combine": "fuse", "models": list(range(1, 10))}, "at most 8"),
        ({"combine": "route", "models": [1]}, "routes"),
        ({"combine": "route", "models": [1], "routes": {}}, "at least 1"),
        ({"combine": "route", "models": [1], "routes": {"cat": 2}}, "model 2 has labels, but is not one of"),
        ({"combine": "route", "models": [1, 2], "routes": {"cat": 1}}, "model 2 has no label"),
        ({"combine": "route", "models": [1], "routes": {"cat": 1}, "default": 1}, "model 1 has all labels"),
        ({"combine": "mean", "models": [1, 2]}, "'add', 'fuse', 'route'"),
    ],
)
def test_an_invalid_definition_is_refused_with_its_reason(definition: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(definition)


def test_defaults() -> None:
    added = ADAPTER.validate_python({"combine": "add", "models": [3, 1]})
    assert isinstance(added, AdapterSum)
    assert added.effective_weights == (0.5, 0.5)
    routed = ADAPTER.validate_python({"combine": "route", "models": [1], "routes": {"cat": 1}})
    assert isinstance(routed, LabelRouting)
    assert routed.member_ids == (1, None)
    assert ADAPTER.validate_json(ADAPTER.dump_json(routed)) == routed
    everything = {"combine": "route", "models": [None, 1], "routes": {"cat": 1, "dog": None}, "default": 1}
    assert ADAPTER.validate_python(everything).model_dump()["routes"] == {"cat": 1, "dog": None}
