from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labels.formats.label_studio_regions import RegionReader, find_kind
from labels.image_files import ImageFile
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.image_draft import ImageDraft

Save = Callable[..., Path]
PLACE = {"x": 10, "y": 25, "width": 20, "height": 50}  # (10, 20, 30, 60) of 100×80 pixels


@pytest.fixture
def draft(save: Save) -> ImageDraft:
    found = DatasetBuilder(Path("here")).add_image("a.png", "a.png", ImageFile(save("a.png")))
    assert found
    return found


def read(draft: ImageDraft, *results: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns kind and label of each annotation. Results are of one region if they do not say otherwise."""
    RegionReader(draft, "task 1").read([(f"result {n}", {"id": "r", **each}) for n, each in enumerate(results)])
    return [(each.kind, each.label) for each in draft.annotations]


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ({"type": "rectanglelabels"}, "objects"),
        ({"type": "bitmasklabels"}, "objects"),
        ({"type": "textarea", "value": {"text": ["x"]}}, "captions"),
        ({"type": "textarea", "value": {"text": ["x"], **PLACE}}, "words"),
        ({"type": "choices"}, "captions"),
        ({"type": "paragraphlabels"}, "captions"),
        ({"type": []}, "objects"),
        ("x", "objects"),
    ],
)
def test_the_kind_that_is_missing_without_a_result(result: Any, kind: str) -> None:
    assert find_kind(result) == kind


def test_labels_come_from_the_shape_and_then_from_the_control_of_labels(draft: ImageDraft) -> None:
    shape = {"type": "rectangle", "value": PLACE}
    labels = {"type": "labels", "value": {**PLACE, "labels": ["cat", "old"]}}
    named = {"type": "rectanglelabels", "value": {**PLACE, "rectanglelabels": ["dog"]}, "id": "s"}
    assert read(draft, labels, shape, named, {**labels, "id": "s"}) == [("box", "cat"), ("box", "dog")]
    assert draft.left_out_names == {"cat", "old"}


def test_a_region_of_two_controls_is_one(draft: ImageDraft) -> None:
    named = {"type": "rectanglelabels", "value": {**PLACE, "rectanglelabels": ["dog"]}}
    assert read(draft, {"type": "rectangle", "value": PLACE}, named) == [("box", "dog")]


@pytest.mark.parametrize(
    "value",
    [
        {**PLACE},
        {**PLACE, "rectanglelabels": [""]},
        {**PLACE, "rectanglelabels": [["cat"]]},
        {**PLACE, "rectanglelabels": ["cat"], "rotation": "x"},
        {**PLACE, "rectanglelabels": ["cat"], "width": None},
        {"rectanglelabels": ["cat"]},
        None,
    ],
)
def test_a_region_that_cannot_be_read_is_refused(draft: ImageDraft, value: Any) -> None:
    assert read(draft, {"type": "rectanglelabels", "value": value}) == []
    assert draft.incomplete == {"objects"}


def test_points_without_a_label_may_be_any_object(draft: ImageDraft) -> None:
    assert read(draft, {"type": "keypoint", "value": {"x": 1, "y": 1}}) == []
    assert (draft.incomplete, draft.left_out_names) == ({"objects"}, set())
    labels = {"type": "labels", "value": {"x": 1, "y": 1, "labels": ["nose"]}, "id": "k"}
    read(draft, {"type": "keypoint", "value": {"x": 1, "y": 1}, "id": "k"}, labels)
    assert draft.left_out_names == {"nose"}


def test_an_ellipse_rotates_around_its_center(draft: ImageDraft) -> None:
    value = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 25, "rotation": 90, "ellipselabels": ["cat"]}
    assert read(draft, {"type": "ellipselabels", "value": value}) == [("polygon", "cat")]
    (polygon,) = draft.annotations
    ring = polygon.polygons[0]  # type: ignore[union-attr]
    assert [min(ring[::2]), min(ring[1::2]), max(ring[::2]), max(ring[1::2])] == pytest.approx([30, 30, 70, 50])
