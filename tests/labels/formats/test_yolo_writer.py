import re
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import supervision as sv
import yaml
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from hypothesis import given

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Polygon
from tests.labels.samples import (
    HEIGHT,
    WIDTH,
    boxes,
    category,
    datasets,
    example,
    export,
    near,
    polygons,
    quads,
    some,
)


def read(folder: Path) -> sv.DetectionDataset:
    return sv.DetectionDataset.from_yolo(
        str(folder / "images/train"), str(folder / "labels/train"), str(folder / "data.yaml")
    )


@some
@given(datasets(boxes(), folders=False))
def test_supervision_reads_every_box(pictures: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("yolo-detect", pictures, Path(folder, "out"))
        dataset = read(Path(folder, "out"))
        found = {Path(path).name[: Path(path).name.index(" ")]: said for path, _, said in dataset}
        assert len(found) == len(pictures)
        for picture in pictures:
            said = found[picture.name[: picture.name.index(" ")]]
            notes = [label.annotation for label in picture.traces]
            assert [dataset.classes[i] for i in said.class_id] == [category(note) for note in notes]
            np.testing.assert_allclose(said.xyxy, np.array([n.box for n in notes]).reshape(-1, 4), atol=0.01)


def test_datumaro_reads_every_box(tmp_path: Path) -> None:
    # It looks for pictures in no folder below images/train.
    first, second = example()
    export("yolo-detect", [replace(first, name="1.png"), second], tmp_path / "out")
    dataset = Dataset.import_from(str(tmp_path / "out"), "yolo")
    names = [named.name for named in dataset.categories()[AnnotationType.label]]
    said = {item.id: [(names[a.label], near(a.points, 1)) for a in item.annotations] for item in dataset}
    assert said == {"1": [("cat", (1, 2, 11, 22)), ("object", (0, 0, 1, 1))], "b": []}


@some
@given(datasets(quads() | polygons()))
def test_the_lines_are_ultralytics_own(pictures: list[LabeledImage]) -> None:
    """By its rules: a picture's labels lie where `/images/` says `/labels/`, a class and pairs of fractions a line."""
    with tempfile.TemporaryDirectory() as folder:
        export("yolo-segment", pictures, Path(folder, "out"))
        data = yaml.safe_load(Path(folder, "out/data.yaml").read_text(encoding="utf-8"))
        assert {"train", "val", "names"} <= data.keys()
        copies = sorted(Path(folder, "out", data["train"]).rglob("*.png"))
        assert len(copies) == len(pictures)
        lines = 0
        for copy in copies:
            path = Path("/labels/".join(str(copy).rsplit("/images/", 1))).with_suffix(".txt")
            for line in path.read_text().splitlines():
                number, *values = line.split()
                assert int(number) in data["names"]
                assert len(values) >= 6
                assert len(values) % 2 == 0
                assert all(re.fullmatch(r"[01]\.\d{6}", v) and 0 <= float(v) <= 1 for v in values)
                lines += 1
        assert lines == sum(len(picture.traces) for picture in pictures)
        assert set(data["names"].values()) == {category(lb.annotation) for p in pictures for lb in p.traces}


def test_supervision_draws_what_pycocotools_would(tmp_path: Path) -> None:
    rings = [[10.0, 10, 200, 20, 100, 200], [300, 300, 500, 300, 500, 400, 300, 420]]
    labels = (TracedAnnotation(Polygon(label="cat", polygons=rings), "cut"),)
    export(
        "yolo-segment",
        [LabeledImage.from_traces("a.png", WIDTH, HEIGHT, labels, example()[0].read, sha256="0")],
        tmp_path / "out",
    )
    _, _, said = next(iter(read(tmp_path / "out")))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(expected, [np.array(ring, np.int32).reshape(-1, 2) for ring in rings], 1)
    both = np.logical_and(said.mask[0], expected).sum() / np.logical_or(said.mask[0], expected).sum()
    assert len(said) == 1
    assert both > 0.97  # but for the bridge's line of pixels


def test_labels_that_yaml_would_take_for_something_else(tmp_path: Path) -> None:
    odd = ["yes", "null", "1", "a: b", "# c", "'", '"', "\n", "é🐈", "- x", "{}", "\x00"]
    labels = tuple(TracedAnnotation(Box(label=label, box=(0, 0, 1, 1)), "s") for label in odd)
    export(
        "yolo-detect",
        [LabeledImage.from_traces("a.png", 9, 9, labels, sha256="0")],
        tmp_path / "out",
        copy_images=False,
    )
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(odd))
