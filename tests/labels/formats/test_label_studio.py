from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labels.dataset import DatasetError
from labels.opening import open_dataset
from prompts.annotations import Box, Polygon, Quad, Text

Save = Callable[..., Path]
SIZE = {"original_width": 100, "original_height": 80}


def result(kind: str, number: str = "r", **value: Any) -> dict[str, Any]:
    return {"id": number, "type": kind, **SIZE, "value": value}


def rectangle(label: str = "cat", number: str = "r", **more: Any) -> dict[str, Any]:
    place = {"x": 10, "y": 25, "width": 20, "height": 50, "rotation": 0} | more
    return result("rectanglelabels", number, rectanglelabels=[label], **place)


def task(*results: dict[str, Any], image: str = "/data/upload/1/1a2b3c4d-a.png", **more: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"image": image}, "annotations": [{"result": list(results)}], **more}


def test_shapes_words_and_captions(save: Save) -> None:
    save("a.png")
    points = [[10, 10], [50, 10], [50, 50], [10, 50]]
    path = save(
        "export.json",
        [
            task(
                rectangle(),
                result("polygonlabels", "p", points=points[:3], polygonlabels=["dog"]),
                result("rectangle", "w", x=0, y=0, width=50, height=50),
                result("textarea", "w", x=0, y=0, width=50, height=50, text=["STOP", "NOW"]),
                result("labels", "w", x=0, y=0, width=50, height=50, labels=["word"]),
                result("rectangle", "o", x=50, y=50, width=50, height=50),
                result("labels", "o", x=50, y=50, width=50, height=50, labels=["bird"]),
                result("textarea", "c", text=["a cat"]),
            )
        ],
    )
    dataset = open_dataset(path.parent)
    (example,) = dataset.images
    assert example.name == "a.png"
    assert dataset.unusable == ()
    assert example.annotations == (
        Text(label="a cat"),
        Box(label="cat", box=(10, 20, 30, 60)),
        Polygon(label="dog", polygons=[[10, 8, 50, 8, 50, 40]]),
        Quad(label="STOP NOW", quad=(0, 0, 50, 0, 50, 40, 0, 40)),
        Box(label="bird", box=(50, 40, 100, 80)),
    )


def test_a_turned_box_turns_around_its_corner(save: Save) -> None:
    save("a.png")
    turned = rectangle(x=50, y=50, width=20, height=12.5, rotation=90)
    (example,) = open_dataset(save("export.json", [task(turned)])).images
    (note,) = example.annotations
    assert isinstance(note, Polygon)
    assert note.polygons[0] == pytest.approx([50, 40, 50, 60, 40, 60, 40, 40])


def test_the_newest_annotation_counts_and_a_prediction_where_there_is_none(save: Save) -> None:
    save("a.png"), save("b.png"), save("c.png"), save("d.png")
    old = {"result": [rectangle("old")], "updated_at": "2024-01-01"}
    new = {"result": [rectangle("new")], "updated_at": "2025-01-01"}
    skipped = {"result": [rectangle("skipped")], "updated_at": "2026-01-01", "was_cancelled": True}
    path = save(
        "export.json",
        [
            task(annotations=[old, new, skipped], image="/a.png"),
            task(annotations=[], predictions=[old], image="s3://bucket/b.png"),
            task(annotations=[{"result": []}], predictions=[old], image="/data/local-files/?d=c.png"),
            task(annotations=[], image="d.png"),
        ],
    )
    dataset = open_dataset(path)
    assert [[note.label for note in each.annotations] for each in dataset.images] == [["new"], ["old"], []]
    assert [str(each) for each in dataset.unusable] == ["export.json: task 7: nobody has annotated it"]


def test_what_cannot_be_used_is_listed(save: Save) -> None:
    save("a.png")
    brush = result("brushlabels", "b", rle=[1], brushlabels=["cat"])
    broken = [
        rectangle(width="x", number="1"), rectangle("", "2"), rectangle(width=0, number="3"), brush,
        {"id": "n", "type": "rectanglelabels"}, result("textarea", "t", x=1, y=1, width=2, height=2, text=["?"]),
        result("choices", "k", choices=["sunny"]), result("polygonlabels", "p", points=[[1]], polygonlabels=["cat"]),
    ]  # fmt: skip
    tasks = [task(rectangle(), *broken), task(rectangle(), image="missing.png"), {"data": {}, "annotations": [{}]}, 5]
    dataset = open_dataset(save("export.json", tasks))
    assert len(dataset.images) == 1
    assert dataset.images[0].complete == set()
    assert {each.source.partition("result ")[2] for each in dataset.unusable} == {*"123bntkp", ""}
    assert len(dataset.unusable) == 11


def test_words_of_older_exports_are_no_lists(save: Save) -> None:
    save("images/a.png")
    words = result("textarea", "w", x=0, y=0, width=50, height=50, text="STOP")
    box = result("rectangle", "w", x=0, y=0, width=50, height=50)
    (example,) = open_dataset(save("export.json", [task(box, words, result("textarea", "c", text="a cat"))])).images
    assert [note.label for note in example.annotations] == ["a cat", "STOP"]


def test_an_export_of_nothing_is_refused(save: Save) -> None:
    with pytest.raises(DatasetError, match="nobody has annotated"):
        open_dataset(save("export.json", [{"data": {"image": "a.png"}}]))
