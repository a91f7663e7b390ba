import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Quad, Text
from tests.labels.samples import (
    HEIGHT,
    PNG,
    WIDTH,
    boxes,
    captions,
    category,
    datasets,
    example,
    export,
    near,
    polygons,
    quads,
    some,
)


def expected(label: TracedAnnotation) -> list[tuple[object, ...]]:
    note = label.annotation
    if isinstance(note, Text):
        return [("caption", [note.label], note.score)]
    if isinstance(note, Box):
        x1, y1, x2, y2 = note.box
        return [("boxes", [category(note)], note.score, near([x1, y1, x2 - x1, y2 - y1]))]
    rows: list[tuple[object, ...]] = []
    for ring in [note.quad] if isinstance(note, Quad) else note.polygons:
        rows.append(("polygons", [category(note)], note.score, near(ring)))
    return [*rows, ("words", [note.label], note.score, rows[0][3])] if isinstance(note, Quad) else rows


def said(result: dict[str, Any]) -> tuple[object, ...]:
    value, name = result["value"], result["from_name"]
    labels = value.get("text") or value.get("rectanglelabels") or value.get("polygonlabels")
    row = (name, labels, result.get("score"))
    if "width" in value:
        return (
            *row,
            near(value[k] / 100 * (WIDTH, HEIGHT)[i % 2] for i, k in enumerate(["x", "y", "width", "height"])),
        )
    if "points" in value:
        return (
            *row,
            near(v / 100 * size for point in value["points"] for v, size in zip(point, (WIDTH, HEIGHT), strict=True)),
        )
    return row


@some
@given(datasets(st.one_of(boxes(), quads(), polygons(), captions())))
def test_the_sdk_takes_every_prediction(pictures: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("label-studio", pictures, Path(folder, "out"))
        interface = LabelInterface(Path(folder, "out/label_config.xml").read_text(encoding="utf-8"))
        interface.validate()
        tasks = json.loads(Path(folder, "out/tasks.json").read_text(encoding="utf-8"))
        for picture, task in zip(pictures, tasks, strict=True):
            assert task["data"]["name"] == picture.name
            path = unquote(task["data"]["image"].removeprefix("/data/local-files/?d="))
            assert Path(folder, "out", path).read_bytes() == PNG
            (prediction,) = task["predictions"]
            assert interface.validate_prediction(prediction, return_errors=True) == []
            assert [said(r) for r in prediction["result"]] == [row for lb in picture.traces for row in expected(lb)]
            named = [result["id"] for result in prediction["result"] if result["from_name"] != "words"]
            assert len(named) == len(set(named))


def test_accepted_predictions_leave_by_the_sdks_converter(tmp_path: Path) -> None:
    export("label-studio", example(), tmp_path / "out")
    tasks = json.loads((tmp_path / "out/tasks.json").read_text(encoding="utf-8"))
    for task in tasks:
        task["annotations"] = [{**task.pop("predictions")[0], "id": 1, "completed_by": 1, "was_cancelled": False}]
    (tmp_path / "accepted.json").write_text(json.dumps(tasks))
    converter = Converter(str(tmp_path / "out/label_config.xml"), str(tmp_path), download_resources=False)
    converter.convert_to_coco(str(tmp_path / "accepted.json"), str(tmp_path / "coco"), is_dir=False)
    coco = json.loads((tmp_path / "coco/result.json").read_text(encoding="utf-8"))
    names = {c["id"]: c["name"] for c in coco["categories"]}
    found = sorted((names[a["category_id"]], near(a["bbox"], 1)) for a in coco["annotations"])
    assert found == [
        ("cat", (0, 0, 2, 2)),
        ("cat", (1, 2, 10, 20)),
        ("cat", (10, 10, 2, 2)),
        ("object", (0, 0, 1, 1)),
        ("text", (0, 0, 4, 2)),
    ]


def test_the_doubtful_can_be_shown_first_and_say_why(tmp_path: Path) -> None:
    export("label-studio", example(), tmp_path / "out", copy_images=False)
    first, second = json.loads((tmp_path / "out/tasks.json").read_text(encoding="utf-8"))
    assert (first["predictions"][0]["score"], "score" in second["predictions"][0]) == (0.25, False)
    assert first["predictions"][0]["result"][0]["meta"] == {"text": ["small"]}
    assert first["data"]["image"] == "a/1.png"
