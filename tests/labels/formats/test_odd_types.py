"""Documents in which a value has the wrong type: it is reported with its position, and nothing else is raised."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_studio_sdk.converter.brush import encode_rle

from finetune.datasets.samples import make_samples
from labels.dataset import Dataset, DatasetError
from labels.opening import open_dataset
from prompts.formatting import format_answer
from prompts.tasks import TASKS

Save = Callable[..., Path]
IMAGES = ("a.png", "b.png")  # 100×80 pixels

COCO = {
    "images": [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(IMAGES)],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 30, 40], "iscrowd": 0, "segmentation": []},
        {"id": 2, "image_id": 0, "category_id": 2, "bbox": [1, 2, 30, 40], "segmentation": [[1, 2, 31, 2, 31, 30]]},
        {"id": 3, "image_id": 1, "caption": "a cat"},
        {"id": 4, "image_id": 1, "bbox": [5, 6, 20, 20], "category_id": 1, "text": "STOP"},
        {"id": 5, "image_id": 1, "bbox": [5, 6, 20, 20], "category_id": 1, "sentences": [{"sent": "left cat"}, "it"]},
        {"id": 6, "image_id": 1, "category_id": 2, "segmentation": {"size": [80, 100], "counts": [810, 900, 6290]}},
    ],
}
BRUSH = encode_rle(np.full(100 * 80 * 4, 255, np.uint8))
LABEL_STUDIO = [
    {
        "id": 7 + i,
        "data": {"image": f"/data/upload/1/{name}"},
        "annotations": [
            {
                "updated_at": "2026",
                "was_cancelled": False,
                "result": [
                    {
                        "id": "r1", "type": "rectanglelabels", "original_width": 100, "original_height": 80,
                        "value": {"x": 1, "y": 2, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]},
                    },
                    {"id": "r2", "type": "polygonlabels", "value": {"points": [[1, 2], [30, 2], [30, 40]],
                                                                   "polygonlabels": ["dog"]}},
                    {"id": "r3", "type": "rectangle", "value": {"x": 50, "y": 50, "width": 30, "height": 10}},
                    {"id": "r3", "type": "textarea", "value": {"x": 50, "y": 50, "text": ["STOP"]}},
                    {"id": "r4", "type": "textarea", "value": {"text": ["a cat"]}},
                    {"id": "r5", "type": "brushlabels", "value": {"rle": BRUSH, "brushlabels": ["dog"]}},
                ],
            }
        ],
    }
    for i, name in enumerate(IMAGES)
]  # fmt: skip
LABEL_ME = {
    "imagePath": "a.png", "imageWidth": 100, "imageHeight": 80,
    "shapes": [
        {"label": "cat", "shape_type": "rectangle", "points": [[1, 2], [30, 40]], "group_id": None},
        {"label": "dog", "shape_type": "polygon", "points": [[1, 2], [30, 2], [30, 40]], "group_id": 3},
        {"label": "dog", "shape_type": "polygon", "points": [[41, 2], [70, 2], [70, 40]], "group_id": 3},
        {"label": "text", "shape_type": "rectangle", "points": [[1, 2], [30, 40]], "description": "STOP"},
    ],
}  # fmt: skip
LOCATIONS = "<loc_1><loc_2><loc_300><loc_400>"
BOX = {"kind": "box", "label": "cat", "box": [1, 2, 30, 40], "score": 0.5}
OWN = [
    {
        "name": name, "width": 100, "height": 80, "complete": ["objects"],
        "labels": [
            {"annotation": BOX, "step": "s", "prompt": "<OD>"},
            {"annotation": {"kind": "polygon", "label": "dog", "polygons": [[1, 2, 31, 2, 31, 30]]}},
            {"annotation": {"kind": "quad", "label": "STOP", "quad": [1, 2, 30, 2, 30, 20, 1, 20]}},
            {"annotation": {"kind": "text", "label": "a cat"}, "prompt": "<CAPTION>"},
            {"annotation": {"kind": "text", "label": "cat"}, "prompt": f"<REGION_TO_CATEGORY>{LOCATIONS}"},
        ],
        "samples": [
            {"task": "<VQA>", "text": "how many?", "answer": [{"kind": "text", "label": "two"}]},
            {"task": "<REGION_TO_SEGMENTATION>", "region": [1, 2, 30, 40],
             "answer": [{"kind": "polygon", "polygons": [[1, 2, 31, 2, 31, 30]]}]},
        ],
    }
    for name in IMAGES
]  # fmt: skip
PROMPTED = [
    {"image": "a.png", "prefix": "<OD>", "suffix": f"cat{LOCATIONS}"},
    {"image": "b.png", "prefix": "detect cat", "suffix": "<loc0001><loc0002><loc0500><loc0600> cat"},
]
HUGGING_FACE = [
    {
        "file_name": "a.png", "width": 100, "height": 80,
        "objects": {"bbox": [[1, 2, 30, 40], [5, 6, 7, 8]], "category": ["cat", "dog"]},
        "captions": ["a cat"],
    },
    {
        "file_name": "b.png",
        "objects": [{"box": [1, 2, 30, 40], "label": "cat"}, {"text": "STOP", "box": [1, 2, 30, 40], "kind": "quad"},
                    {"label": "dog", "kind": "polygon", "polygons": [[1, 2, 31, 2, 31, 30]]}],
    },
]  # fmt: skip
KINDS: dict[str, tuple[str, Any]] = {
    "coco": ("labels.json", COCO),
    "label-studio": ("labels.json", LABEL_STUDIO),
    "labelme": ("labels.json", LABEL_ME),
    "own": ("labels.jsonl", OWN),
    "prompted": ("labels.jsonl", PROMPTED),
    "hugging-face": ("metadata.jsonl", HUGGING_FACE),
}
ODD: list[Any] = [None, True, 3, -1.5, 10**400, "", "3", "x", [], [1], ["x", None], [[]], {}, {"id": 1}, {"x": [None]}]


def to_text(name: str, document: Any) -> str:
    return "\n".join(map(json.dumps, document)) if name.endswith(".jsonl") else json.dumps(document)


def iter_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path to each value in a document."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from iter_paths(each, (*path, key))


def replace_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Returns the document with another value at a path."""
    if not path:
        return value
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


def format_all_samples(dataset: Dataset) -> None:
    """Formats every sample that the dataset can make."""
    for example in dataset.images:
        for sample in make_samples(example, TASKS, classes=dataset.classes, rng=np.random.default_rng(0)):
            format_answer(sample.task, sample.answer, example.size)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_odd_types_raise_only_dataset_errors(kind: str, save: Save, data: st.DataObject) -> None:
    name, document = KINDS[kind]
    for image in IMAGES:
        save(image)
    for _ in range(data.draw(st.integers(1, 2))):
        if not (found := list(iter_paths(document))):
            break
        document = replace_value(document, data.draw(st.sampled_from(found)), data.draw(st.sampled_from(ODD)))
    if name.endswith(".jsonl") and not isinstance(document, list):
        document = [document]
    with suppress(DatasetError):
        format_all_samples(open_dataset(save(name, to_text(name, document))))


# The first entry that is reported for each; the other image is still read.
@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("coco", ("images", 0), [], "labels.json: image 0: it needs an id and a file_name"),
        ("coco", ("images", 0, "id"), True, "labels.json: image 0: it needs an id and a file_name"),
        (
            "coco",
            ("categories",),
            {"1": "cat"},
            "labels.json: annotation 1: its category is 1, which the file does not list",
        ),
        ("coco", ("annotations", 0), ["cat"], "labels.json: annotation 0: it is not a JSON object"),
        ("coco", ("annotations", 0, "bbox"), {"x": 1}, "labels.json: annotation 1: its position is dict, not a list"),
        (
            "coco",
            ("annotations", 0, "bbox", 2),
            None,
            "labels.json: annotation 1: its position contains None, which is not",
        ),
        ("coco", ("annotations", 1, "segmentation"), "x", "annotation 2: its segmentation is neither a list of rings"),
        (
            "coco",
            ("annotations", 1, "segmentation", 0),
            None,
            "annotation 2: its position is None, not a list of numbers",
        ),
        ("label-studio", (0, "annotations"), 3, "labels.json: task 7: nobody has annotated it"),
        ("label-studio", (0, "annotations", 0, "result"), None, "labels.json: task 7: its result is not a list"),
        ("label-studio", (0, "annotations", 0, "result"), {"x": 1}, "labels.json: task 7: its result is not a list"),
        ("label-studio", (0, "annotations", 0, "result", 1), "x", "task 7, result 1: it is not a JSON object"),
        ("label-studio", (0, "annotations", 0, "result", 3, "value", "text"), 3, "task 7, result r3: its text is no"),
        (
            "label-studio",
            (0, "annotations", 0, "result", 4, "value", "text"),
            [None],
            "result r4: its text is not text",
        ),
        ("labelme", ("shapes", 0), None, "labels.json: shape 0: it is not a JSON object"),
        ("labelme", ("shapes", 0, "points", 1), None, "labels.json: shape 0: its points are not a list of x and y"),
        ("labelme", ("shapes", 1, "label"), ["dog"], "labels.json: shape 1: its label is list, not text"),
        ("own", (0, "labels"), {"annotation": BOX}, "labels.jsonl:1, label 0: its annotation: "),
        ("own", (0, "complete"), "objects", "labels.jsonl:1: its complete is not a list of objects, words, captions"),
        ("own", (0, "complete"), 3, "labels.jsonl:1: its complete is not a list of objects, words, captions"),
        ("own", (0, "labels", 3, "prompt"), [], ""),
        ("own", (0, "labels", 3, "prompt"), 3, "labels.jsonl:1, label 3: its prompt is not text"),
        ("prompted", (0, "prefix"), ["<OD>"], "labels.jsonl:1: it has no image, prefix and suffix"),
        ("hugging-face", (0, "objects"), 3, "metadata.jsonl:1: its objects are neither a list nor a list for each"),
        ("hugging-face", (0, "objects"), {"id": 1}, "metadata.jsonl:1: its objects are neither a list nor a list for"),
        ("hugging-face", (0, "objects", "bbox", 0), 3, "metadata.jsonl:1, object 0: its position is 3, not a list"),
        ("hugging-face", (0, "captions"), [3], "metadata.jsonl:1: its caption is 3, not text"),
    ],
)
def test_each_odd_value_is_reported_with_its_position(
    kind: str, path: tuple[Any, ...], value: Any, message: str, save: Save
) -> None:
    name, document = KINDS[kind]
    for image in IMAGES:
        save(image)
    dataset = open_dataset(save(name, to_text(name, replace_value(document, path, value))))
    if message:
        assert message in str(dataset.unusable[0])
    else:
        assert dataset.unusable == ()
    format_all_samples(dataset)


@pytest.mark.parametrize(("kind", "path"), [("hugging-face", (0, "objects")), ("label-studio", (0, "annotations"))])
def test_kinds_with_unreadable_labels_are_not_complete(kind: str, path: tuple[Any, ...], save: Save) -> None:
    name, document = KINDS[kind]
    for image in IMAGES:
        save(image)
    dataset = open_dataset(save(name, to_text(name, replace_value(document, path, "x"))))
    assert all("objects" not in example.complete for example in dataset.images if example.name == "a.png")


def test_class_ids_may_be_text_or_floats(save: Save) -> None:
    save("images/a.png")
    save("labels/a.txt", "0.5 0.5 0.5 0.2 0.2\n1e400 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n")
    dataset = open_dataset(save("data.yaml", "train: images\nnames: {0: cat, 0.5: dog, null: x}\n").parent)
    assert [annotation.label for annotation in dataset.images[0].annotations] == ["dog", "cat"]
    assert str(dataset.unusable[0]).startswith("labels/a.txt:2: ")
