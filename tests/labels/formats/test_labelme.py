import base64
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st

from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from prompts.annotations import Box, Polygon, Quad
from tests.labels.samples import (
    boxes,
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


def make_shape(label: str, *points: list[float], kind: str = "rectangle", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": list(points), "shape_type": kind, "group_id": None, **more}


def make_document(*shapes: Any, name: str = "a.png", **more: Any) -> dict[str, Any]:
    return {"shapes": list(shapes), "imagePath": name, "imageWidth": 100, "imageHeight": 80, **more}


def test_shapes_in_any_direction_groups_and_words_are_read(save: Save) -> None:
    save("deep/a.png")
    triangle: list[list[float]] = [[1, 1], [9, 1], [9, 9]]
    path = save(
        "deep/a.json",
        make_document(
            make_shape("cat", [30, 40], [10, 20]),
            make_shape("dog", *triangle, kind="polygon", group_id=3),
            make_shape("dog", [20, 1], [29, 1], [29, 9], kind="polygon", group_id=3),
            make_shape("text", [0, 0], [20, 0], [20, 9], [0, 9], kind="polygon", description="STOP\nsmall"),
        ),
    )
    for opened in (path.parent.parent, path.parent, path):
        (example,) = open_dataset(opened).images
        assert example.annotations == (
            Box(label="cat", box=(10, 20, 30, 40)),
            Polygon(label="dog", polygons=[[1, 1, 9, 1, 9, 9], [20, 1, 29, 1, 29, 9]]),
            Quad(label="STOP", quad=(0, 0, 20, 0, 20, 9, 0, 9)),
        )


def test_an_embedded_image_is_read_if_there_is_no_file(save: Save, tmp_path: Path) -> None:
    data = base64.b64encode(save("elsewhere/b.png").read_bytes()).decode()
    path = save("a.json", make_document(make_shape("cat", [1, 1], [9, 9]), imageData=data))
    (example,) = open_dataset(path).images
    assert example.open().size == (100, 80)


def test_unusable_entries_are_listed(save: Save) -> None:
    save("a.png")
    shapes = [
        make_shape("cat", [1, 1], [9, 9]),
        make_shape("cat", [1, 1], kind="point"),
        make_shape("cat", [1, 1]),
        make_shape("", [1, 1], [9, 9]),
        5,
        {"label": "cat", "points": 3},
    ]
    save("a.json", make_document(*shapes))
    save("b.json", make_document(name="missing.png"))
    save("c.json", "{")
    path = save("d.json", make_document(name="d.png", imageData="!!"))
    dataset = open_dataset(path.parent)
    assert len(dataset.images) == 1
    assert [each.source for each in dataset.unusable] == [
        *(f"a.json: shape {n}" for n in range(1, 6)), "b.json", "c.json", "d.json",
    ]  # fmt: skip


# Writing

KEYS = {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}


def expect_shapes(label: TracedAnnotation, group: int) -> list[tuple[object, ...]]:
    annotation = label.annotation
    described = " ".join(annotation.label.split()) if isinstance(annotation, Quad) else ""
    rings = (
        [annotation.box]
        if isinstance(annotation, Box)
        else [annotation.quad]
        if isinstance(annotation, Quad)
        else annotation.polygons
    )
    kind = "rectangle" if isinstance(annotation, Box) else "polygon"
    grouped = group if len(rings) > 1 else None
    return [
        (expect_category(annotation), kind, grouped, described, annotation.score, round_values(ring)) for ring in rings
    ]


@some
@given(lists_of_images(st.one_of(boxes(), quads(), polygons())))
def test_files_pass_labelmes_own_loading_rules(images: list[LabeledImage]) -> None:
    """LabelMe requires these keys, types and lengths, and an image of that size beside the file."""
    with tempfile.TemporaryDirectory() as folder:
        export("labelme", images, Path(folder, "out"))
        files = {path.name.split(" ")[0]: path for path in Path(folder, "out").rglob("*.json")}
        assert len(files) == len(images)
        for image in images:
            path = files[image.name.split("/")[-1].split(" ")[0]]
            document = json.loads(path.read_text(encoding="utf-8"))
            assert document.keys() == KEYS
            assert (path.parent / document["imagePath"]).is_file()
            assert document["imageData"] is None
            assert (document["imageWidth"], document["imageHeight"]) == (image.width, image.height)
            for shape in document["shapes"]:
                assert all(isinstance(shape[key], str) for key in ("label", "shape_type", "description"))
                assert shape["points"]
                assert all(len(point) == 2 for point in shape["points"])
                is_reviewed = shape["flags"] == {"review": True} and shape["attributes"] == {"review": "small"}
                assert is_reviewed or (shape["flags"] == {} and "attributes" not in shape)
                assert len(shape["points"]) == 2 or shape["shape_type"] == "polygon"
            shapes = [
                (
                    s["label"],
                    s["shape_type"],
                    s["group_id"],
                    s["description"],
                    s.get("score"),
                    round_values(v for point in s["points"] for v in point),
                )
                for s in document["shapes"]
            ]
            assert shapes == [row for i, label in enumerate(image.traces, start=1) for row in expect_shapes(label, i)]


@some
@given(lists_of_images(boxes(), folders=False))
def test_supervision_reads_every_box(images: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("labelme", images, Path(folder, "out"))
        dataset = sv.DetectionDataset.from_labelme(folder + "/out", folder + "/out")
        found = {Path(path).name.split(" ")[0]: detections for path, _, detections in dataset}
        for image in images:
            detections = found[image.name.split(" ")[0]]
            annotations = [label.annotation for label in image.traces]
            assert [dataset.classes[i] for i in detections.class_id] == [
                expect_category(annotation) for annotation in annotations
            ]
            np.testing.assert_allclose(
                detections.xyxy, np.array([n.box for n in annotations]).reshape(-1, 4), atol=0.01
            )


def test_supervision_reads_the_rings_of_one_object_as_one(tmp_path: Path) -> None:
    export(
        "labelme",
        [
            LabeledImage.from_traces(
                "1.png", 640, 480, make_example_images()[0].traces, make_example_images()[0].read, sha256="0"
            )
        ],
        tmp_path / "out",
    )
    dataset = sv.DetectionDataset.from_labelme(str(tmp_path / "out"), str(tmp_path / "out"))
    _, _, detections = next(iter(dataset))
    assert sorted(dataset.classes[i] for i in detections.class_id) == ["cat", "cat", "object", "text"]
