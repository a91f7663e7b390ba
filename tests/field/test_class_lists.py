"""Classes that images were not labeled for, and objects whose class is known only in part."""

from pathlib import Path
from typing import Any

import pytest

from tests.field.annotation_files import Folder, describe, list_reasons, list_tasks, make_coco, make_result, make_task

CAT, DOG = {"bbox": [20, 10, 60, 50]}, {"bbox": [100, 10, 40, 40], "category_id": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.situation("A9", "files with other classes, which do not say whether their images show the rest")
@pytest.mark.parametrize("lists", [("cat",), ("dog", "cat")])
@pytest.mark.parametrize("name", ["person_keypoints_val.json", "instances_train.json"])
def test_classes_that_an_image_was_not_labeled_for(folder: Folder, name: str, lists: tuple[str, ...]) -> None:
    folder.add_images("a.jpg", "b.jpg")
    folder.add("annotations/instances_val.json", make_coco(CAT, {**DOG, "id": 2}))
    images = [{"id": 2, "file_name": "b.jpg"}]
    document = make_coco({**CAT, "category_id": len(lists), "image_id": 2, "id": 3}, images=images, classes=lists)
    dataset = folder.add(f"annotations/{name}", document).read()
    # Another split may list only the classes that occur.
    is_known = len(lists) == 2 or name == "instances_train.json"
    tasks = [list_tasks(dataset, image.name) for image in dataset.images]
    assert tasks == [{"<OD>"}, {"<OD>"} if is_known else set()][:: 1 if "val" in name else -1]
    assert ("image 2: whether it shows 'dog' is unknown" in list_reasons(dataset)) is not is_known


@pytest.mark.situation("A9", "LVIS, where images are labeled for some classes, and are named by coco_url")
@pytest.mark.parametrize(("absent", "partial", "is_known"), [([2], [], True), ([2], [2], False), ([], [], False)])
def test_images_of_lvis(folder: Folder, absent: list[int], partial: list[int], is_known: bool) -> None:
    url = "http://images.cocodataset.org/train2017/{}.jpg"
    images: list[dict[str, Any]] = [{"id": n, "coco_url": url.format(name)} for n, name in enumerate("ab", start=1)]
    images[0] |= {"neg_category_ids": absent, "not_exhaustive_category_ids": partial}
    images[1] |= {"neg_category_ids": [1], "not_exhaustive_category_ids": []}
    folder.add_images("train2017/a.jpg", "train2017/b.jpg")
    dataset = folder.add("lvis_v1_train.json", make_coco(CAT, {**DOG, "image_id": 2}, images=images)).read()
    assert list_tasks(dataset, "train2017/a.jpg") == ({"<OD>"} if is_known else set())
    assert list_tasks(dataset, "train2017/b.jpg") == {"<OD>"}


WORDS = {
    "coco": ("c.json", make_coco({**CAT, "text": "STOP"}, CAT)),
    "cvat": (
        "annotations.xml",
        '<annotations><image name="a.jpg"><box label="cat" xtl="1" ytl="1" xbr="30" ybr="30"/>'
        '<box label="cat" xtl="20" ytl="10" xbr="80" ybr="60"><attribute name="text">STOP</attribute></box>'
        "</image></annotations>",
    ),
    "labelme": (
        "a.json",
        {
            "shapes": [
                {"label": "text", "shape_type": "rectangle", "points": [[1, 1], [x, 50]], "description": text}
                for x, text in ((50, "STOP"), (90, ""))
            ],
            "imagePath": "a.jpg",
        },
    ),
    "label-studio": (
        "t.json",
        [
            make_task(
                make_result(number="r1", value={"x": 50}),
                make_result(number="r2"),
                {"id": "r1", "type": "textarea", "to_name": "image", "value": {"x": 50, "text": ["STOP"]}},
            )
        ],
    ),
    "huggingface": (
        "metadata.jsonl",
        '{"file_name": "a.jpg", "objects": [{"bbox": [1, 1, 9, 9], "category": "cat", "text": "STOP"}, '
        '{"bbox": [20, 10, 9, 9], "category": "cat"}]}',
    ),
}


@pytest.mark.situation("A10", "a word whose class other objects have: it may be one of them")
@pytest.mark.parametrize("name", WORDS)
def test_classes_of_words_make_objects_uncertain(folder: Folder, name: str) -> None:
    dataset = folder.add_images("a.jpg").add(*WORDS[name]).read()
    assert sorted(kind for kind, *_ in describe(dataset)["a.jpg"]) == ["box", "quad"]
    assert "it is a word, its label" in list_reasons(dataset)
    assert list_tasks(dataset, "a.jpg") == {"<OCR_WITH_REGION>"}


@pytest.mark.situation("A10", "images that labelImg and LabelMe saved in several formats")
def test_images_without_labels_in_this_format_are_uncertain(folder: Folder) -> None:
    folder.add_images("a.jpg", "b.jpg", "c.jpg").add("classes.txt", "cat\n").add("a.txt", "0 .5 .5 .2 .2\n")
    folder.add("b.xml", "<annotation/>")
    dataset = folder.read()
    assert list(describe(dataset)) == ["a.jpg", "c.jpg"]
    other, missing = dataset.unusable
    assert "in the format Pascal VOC, which is not read" in other.reason
    assert (missing.source, missing.reason) == ("b.txt", "there is no such file, but b.xml")
