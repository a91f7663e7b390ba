import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface

from labels.dataset import DatasetError
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Box, Polygon, Quad, Text
from tests.labels.samples import (
    HEIGHT,
    PNG,
    WIDTH,
    boxes,
    captions,
    expect_category,
    export,
    lists_of_images,
    make_example_images,
    polygons,
    quads,
    round_values,
    some,
)

Save = Callable[..., Path]
SIZE = {"original_width": 100, "original_height": 80}


def make_result(kind: str, number: str = "r", **value: Any) -> dict[str, Any]:
    return {"id": number, "type": kind, **SIZE, "value": value}


def make_rectangle(label: str = "cat", number: str = "r", **more: Any) -> dict[str, Any]:
    place = {"x": 10, "y": 25, "width": 20, "height": 50, "rotation": 0} | more
    return make_result("rectanglelabels", number, rectanglelabels=[label], **place)


def make_task(*results: dict[str, Any], image: str = "/data/upload/1/1a2b3c4d-a.png", **more: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"image": image}, "annotations": [{"result": list(results)}], **more}


def test_several_files_must_be_chosen_from(save: Save) -> None:
    save("both/a.png")
    for name in ("one.json", "other.json"):
        folder = save(f"both/{name}", [make_task(make_rectangle())]).parent
    with pytest.raises(DatasetError, match=r"several datasets.*one.json, .*other.json"):
        open_dataset(folder)
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}
    save("mixed/coco.json", coco)
    with pytest.raises(DatasetError, match=r"several datasets.*coco.json, .*tasks.json"):
        open_dataset(save("mixed/tasks.json", [make_task(make_rectangle())]).parent)


def test_shapes_words_and_captions_are_read(save: Save) -> None:
    save("a.png")
    points = [[10, 10], [50, 10], [50, 50], [10, 50]]
    path = save(
        "export.json",
        [
            make_task(
                make_rectangle(),
                make_result("polygonlabels", "p", points=points[:3], polygonlabels=["dog"]),
                make_result("rectangle", "w", x=0, y=0, width=50, height=50),
                make_result("textarea", "w", x=0, y=0, width=50, height=50, text=["STOP", "NOW"]),
                make_result("labels", "w", x=0, y=0, width=50, height=50, labels=["word"]),
                make_result("rectangle", "o", x=50, y=50, width=50, height=50),
                make_result("labels", "o", x=50, y=50, width=50, height=50, labels=["bird"]),
                make_result("textarea", "c", text=["a cat"]),
            )
        ],
    )
    dataset = open_dataset(path.parent)
    (example,) = dataset.images
    assert example.name == "a.png"
    assert list(map(str, dataset.unusable)) == ["export.json: labels of words are not used"]
    assert example.annotations == (
        Text(label="a cat"),
        Box(label="cat", box=(10, 20, 30, 60)),
        Polygon(label="dog", polygons=[[10, 8, 50, 8, 50, 40]]),
        Quad(label="STOP NOW", quad=(0, 0, 50, 0, 50, 40, 0, 40)),
        Box(label="bird", box=(50, 40, 100, 80)),
    )


def test_a_rotated_box_rotates_around_its_corner(save: Save) -> None:
    save("a.png")
    turned = make_rectangle(x=50, y=50, width=20, height=12.5, rotation=90)
    (example,) = open_dataset(save("export.json", [make_task(turned)])).images
    (annotation,) = example.annotations
    assert isinstance(annotation, Polygon)
    assert annotation.polygons[0] == pytest.approx([50, 40, 50, 60, 40, 60, 40, 40])


def test_the_newest_annotation_counts_or_else_the_prediction(save: Save) -> None:
    save("a.png"), save("b.png"), save("c.png"), save("d.png")
    old = {"result": [make_rectangle("old")], "updated_at": "2024-01-01"}
    new = {"result": [make_rectangle("new")], "updated_at": "2025-01-01"}
    skipped = {"result": [make_rectangle("skipped")], "updated_at": "2026-01-01", "was_cancelled": True}
    path = save(
        "export.json",
        [
            make_task(annotations=[old, new, skipped], image="/a.png"),
            make_task(annotations=[], predictions=[old], image="s3://bucket/b.png"),
            make_task(annotations=[{"result": []}], predictions=[old], image="/data/local-files/?d=c.png"),
            make_task(annotations=[], image="d.png"),
        ],
    )
    dataset = open_dataset(path)
    assert [[annotation.label for annotation in each.annotations] for each in dataset.images] == [["new"], ["old"], []]
    assert [str(each) for each in dataset.unusable] == [
        "export.json: task 7, annotation 1: "
        "another annotation of the task counts: the ground truth, or else the newest",
        "export.json: task 7: nobody has annotated it",
    ]


def test_unusable_entries_are_listed(save: Save) -> None:
    save("a.png")
    brush = make_result("brushlabels", "b", rle=[1], brushlabels=["cat"])
    broken = [
        make_rectangle(width="x", number="1"), make_rectangle("", "2"), make_rectangle(width=0, number="3"), brush,
        {"id": "n", "type": "rectanglelabels"}, make_result("textarea", "t", x=1, y=1, width=2, height=2, text=["?"]),
        make_result("choices", "k", choices=["sunny"]),
        make_result("polygonlabels", "p", points=[[1]], polygonlabels=["cat"]),
    ]  # fmt: skip
    tasks = [
        make_task(make_rectangle(), *broken),
        make_task(make_rectangle(), image="missing.png"),
        {"data": {}, "annotations": [{}]},
        5,
    ]
    dataset = open_dataset(save("export.json", tasks))
    assert len(dataset.images) == 1
    assert dataset.images[0].complete == set()
    assert {each.source.partition("result ")[2] for each in dataset.unusable} == {*"123bntkp", ""}
    assert len(dataset.unusable) == 11


def test_texts_of_older_exports_are_not_lists(save: Save) -> None:
    save("images/a.png")
    words = make_result("textarea", "w", x=0, y=0, width=50, height=50, text="STOP")
    box = make_result("rectangle", "w", x=0, y=0, width=50, height=50)
    (example,) = open_dataset(
        save("export.json", [make_task(box, words, make_result("textarea", "c", text="a cat"))])
    ).images
    assert [annotation.label for annotation in example.annotations] == ["a cat", "STOP"]


def test_an_export_without_annotations_is_refused(save: Save) -> None:
    with pytest.raises(DatasetError, match="nobody has annotated"):
        open_dataset(save("export.json", [{"data": {"image": "a.png"}}]))


# Writing


def expect_rows(label: TracedAnnotation) -> list[tuple[object, ...]]:
    annotation = label.annotation
    if isinstance(annotation, Text):
        return [("caption", [annotation.label], annotation.score)]
    if isinstance(annotation, Box):
        x1, y1, x2, y2 = annotation.box
        return [("boxes", [expect_category(annotation)], annotation.score, round_values([x1, y1, x2 - x1, y2 - y1]))]
    rows: list[tuple[object, ...]] = []
    for ring in [annotation.quad] if isinstance(annotation, Quad) else annotation.polygons:
        rows.append(("polygons", [expect_category(annotation)], annotation.score, round_values(ring)))
    return (
        [*rows, ("words", [annotation.label], annotation.score, rows[0][3])] if isinstance(annotation, Quad) else rows
    )


def to_row(result: dict[str, Any]) -> tuple[object, ...]:
    value, name = result["value"], result["from_name"]
    labels = value.get("text") or value.get("rectanglelabels") or value.get("polygonlabels")
    row = (name, labels, result.get("score"))
    if "width" in value:
        return (
            *row,
            round_values(value[k] / 100 * (WIDTH, HEIGHT)[i % 2] for i, k in enumerate(["x", "y", "width", "height"])),
        )
    if "points" in value:
        return (
            *row,
            round_values(
                v / 100 * size for point in value["points"] for v, size in zip(point, (WIDTH, HEIGHT), strict=True)
            ),
        )
    return row


@some
@given(lists_of_images(st.one_of(boxes(), quads(), polygons(), captions())))
def test_the_sdk_accepts_every_prediction(images: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("label-studio", images, Path(folder, "out"))
        interface = LabelInterface(Path(folder, "out/label_config.xml").read_text(encoding="utf-8"))
        interface.validate()
        tasks = json.loads(Path(folder, "out/tasks.json").read_text(encoding="utf-8"))
        for image, task in zip(images, tasks, strict=True):
            assert task["data"]["name"] == image.name
            path = unquote(task["data"]["image"].removeprefix("/data/local-files/?d="))
            assert Path(folder, "out", path).read_bytes() == PNG
            (prediction,) = task["predictions"]
            assert interface.validate_prediction(prediction, return_errors=True) == []
            assert [to_row(r) for r in prediction["result"]] == [row for lb in image.traces for row in expect_rows(lb)]
            named = [result["id"] for result in prediction["result"] if result["from_name"] != "words"]
            assert len(named) == len(set(named))


def test_accepted_predictions_pass_the_sdks_converter(tmp_path: Path) -> None:
    export("label-studio", make_example_images(), tmp_path / "out")
    tasks = json.loads((tmp_path / "out/tasks.json").read_text(encoding="utf-8"))
    for task in tasks:
        task["annotations"] = [{**task.pop("predictions")[0], "id": 1, "completed_by": 1, "was_cancelled": False}]
    (tmp_path / "accepted.json").write_text(json.dumps(tasks))
    converter = Converter(str(tmp_path / "out/label_config.xml"), str(tmp_path), download_resources=False)
    converter.convert_to_coco(str(tmp_path / "accepted.json"), str(tmp_path / "coco"), is_dir=False)
    coco = json.loads((tmp_path / "coco/result.json").read_text(encoding="utf-8"))
    names = {c["id"]: c["name"] for c in coco["categories"]}
    found = sorted((names[a["category_id"]], round_values(a["bbox"], 1)) for a in coco["annotations"])
    assert found == [
        ("cat", (0, 0, 2, 2)),
        ("cat", (1, 2, 10, 20)),
        ("cat", (10, 10, 2, 2)),
        ("object", (0, 0, 1, 1)),
        ("text", (0, 0, 4, 2)),
    ]


def test_tasks_can_be_sorted_by_score_and_show_the_reason_for_review(tmp_path: Path) -> None:
    export("label-studio", make_example_images(), tmp_path / "out", placement=ImagePlacement.NONE)
    first, second = json.loads((tmp_path / "out/tasks.json").read_text(encoding="utf-8"))
    assert (first["predictions"][0]["score"], "score" in second["predictions"][0]) == (0.25, False)
    assert first["predictions"][0]["result"][0]["meta"] == {"text": ["small"]}
    assert first["data"]["image"] == "a/1.png"
