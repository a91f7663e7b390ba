import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labels.formats.huggingface_rows import read_row
from labels.image_files import ImageFile
from labels.label_kind import LabelKind
from labels.reading import checks
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.image_draft import ImageDraft

Save = Callable[..., Path]
RING = [1, 1, 30, 1, 30, 40]


@pytest.fixture
def draft(save: Save) -> ImageDraft:
    """An image, beside another one with a caption."""
    builder = DatasetBuilder(Path("here"))
    other, draft = (builder.add_image(name, name, ImageFile(save(name))) for name in ("b.png", "a.png"))
    assert other
    assert draft
    other.add(LabelKind.CAPTIONS, "b.png", checks.check_caption, "a dog")
    return draft


def read(draft: ImageDraft, row: dict[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns kind and label of the annotations, and the reasons."""
    read_row(row, draft, "metadata.jsonl:3", ["cat", "dog"])
    dataset = draft.builder.build()
    found = [each for image in dataset.images for each in image.annotations if image.name == "a.png"]
    return [(each.kind, each.label) for each in found], [entry.reason for entry in dataset.unusable]


@pytest.mark.parametrize(
    ("record", "expected", "reason"),
    [
        ({"bbox": [1, 1, 9, 9], "category": 1}, [("box", "dog")], ""),
        ({"bbox": [1, 1, 9, 9], "category": 1.0}, [("box", "dog")], ""),
        ({"bbox": [1, 1, 9, 9], "label": "cow"}, [("box", "cow")], ""),
        ({"box": [1, 1, 9, 9], "category": 7}, [], "its category 7 has no name"),
        ({"bbox": [1, 1, 9, 9], "category": 1, "iscrowd": 1}, [], "it is a crowd"),
        ({"bbox": [1, 1, 9, 9], "category": 1, "is_crowd": False}, [("box", "dog")], ""),
        ({"bbox": [1, 1, 9, 9], "category": 0, "segmentation": RING}, [("polygon", "cat")], ""),
        ({"bbox": [1, 1, 9, 9], "category": 0, "segmentation": [RING]}, [("polygon", "cat")], ""),
        ({"bbox": [1, 1, 9, 9], "category": 0, "polygons": [[1, 1, 2, 2]]}, [("box", "cat")], "only its box is used"),
        ({"bbox": None, "category": 0, "polygons": [RING]}, [("polygon", "cat")], ""),
        ({"category": 0}, [], "it has no box, bbox or polygons"),
        ({"text": "STOP", "bbox": [1, 1, 9, 9]}, [("quad", "STOP")], ""),
    ],
)
def test_objects(draft: ImageDraft, record: dict[str, Any], expected: Any, reason: str) -> None:
    found, reasons = read(draft, {"objects": [record]})
    assert found == expected
    assert reason in "".join(reasons)
    assert bool(reasons) == bool(reason)


def test_objects_of_csv_are_json(draft: ImageDraft) -> None:
    objects = json.dumps({"bbox": [[1, 1, 9, 9]], "category": [0]})
    assert read(draft, {"objects": objects}) == ([("box", "cat")], [])


def test_unreadable_objects_take_the_objects(draft: ImageDraft) -> None:
    assert "neither a list" in read(draft, {"objects": "[1,"})[1][0]
    assert LabelKind.OBJECTS in draft.incomplete


def test_one_column_of_captions_is_used(draft: ImageDraft) -> None:
    row = {"caption": ["a cat", {"text": "one cat"}], "text": "cat!", "label": 3}
    assert read(draft, row) == (
        [("text", "a cat"), ("text", "one cat")],
        [
            "its text is not used, because it has a column 'caption'",
            "the column 'label' is not used: it labels whole images",
        ],
    )


@pytest.mark.parametrize(("objects", "expected"), [([], {"objects", "words"}), (None, set())])
def test_a_row_without_objects_does_not_say_that_there_are_none(
    draft: ImageDraft, objects: Any, expected: set[str]
) -> None:
    read_row({"objects": objects}, draft, "x:1", [])
    assert draft.covered == expected
