import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import supervision as sv
import yaml
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from hypothesis import given

from labels.dataset import DatasetError
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Box, Polygon
from tests.labels.samples import (
    HEIGHT,
    WIDTH,
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
DATA = "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"


def test_boxes_and_polygons_of_all_splits_are_read(save: Save) -> None:
    root = save("data.yaml", DATA).parent
    save("images/train/a.png"), save("images/train/deep/b.PNG"), save("images/val/c.png")
    save("labels/train/a.txt", "0 0.5 0.5 0.2 0.5\n1 0.1 0.1 0.5 0.1 0.5 0.5\n\n")
    save("labels/val/c.txt", "1 0.5 0.5 1 1 0.87")
    for path in (root, root / "data.yaml"):
        dataset = open_dataset(path)
        assert dataset.unusable == ()
        assert [each.name for each in dataset.images] == [
            "images/train/a.png", "images/train/deep/b.PNG", "images/val/c.png",
        ]  # fmt: skip
        a, b, c = dataset.images
        assert a.annotations[0] == Box(label="cat", box=(40, 20, 60, 60))
        assert a.annotations[1] == Polygon(label="dog", polygons=[[10, 8, 50, 8, 50, 40]])
        assert a.source == "labels/train/a.txt"
        # An image without a labels file shows nothing; a fifth number is a score.
        assert (b.annotations, b.complete) == ((), {LabelKind.OBJECTS})
        assert c.annotations == (Box(label="dog", box=(0, 0, 100, 80)),)


def test_a_split_can_be_opened_and_roboflows_paths_are_resolved(save: Save) -> None:
    root = save("data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [cat]\n").parent
    for split in ("train", "valid"):
        save(f"{split}/images/a.png")
        save(f"{split}/labels/a.txt", "0 0.5 0.5 0.2 0.5")
    assert [each.name for each in open_dataset(root).images] == ["train/images/a.png", "valid/images/a.png"]
    for part in (root / "valid", root / "valid" / "images"):
        assert [each.name for each in open_dataset(part).images] == ["valid/images/a.png"]


def test_classes_txt_and_lists_of_images_are_read(save: Save) -> None:
    save("images/a.png")
    save("labels/a.txt", "1 0.5 0.5 0.2 0.5")
    root = save("classes.txt", "cat\nfire hydrant\n").parent
    assert open_dataset(root).classes == ("fire hydrant",)
    save("data.yaml", f"path: {root}\ntrain: list.txt\nnames: [cat, dog]\n")
    save("list.txt", "./images/a.png\n\n")
    assert open_dataset(root).classes == ("dog",)


def test_keypoints_are_ignored(save: Save) -> None:
    save("images/a.png")
    save("labels/a.txt", "0 0.5 0.5 0.2 0.5 0.1 0.1 2 0.2 0.2 2")
    root = save("data.yaml", "train: images\nnames: [person]\nkpt_shape: [2, 3]\n").parent
    assert open_dataset(root).images[0].annotations == (Box(label="person", box=(40, 20, 60, 60)),)


def test_unusable_entries_name_file_and_line(save: Save) -> None:
    root = save("data.yaml", DATA).parent
    save("images/train/a.png"), save("images/train/b.png", "not an image"), save("images/train/d.png")
    lines = [
        "0 0.5 0.5 0.2 0.5",
        "2 0.5 0.5 0.2 0.5",
        "0 0.5 0.5 0.2",
        "0 0.5 0.5 0.2 nan",
        "0 0.5 0.5 0.2 -0.5",
        "0 0.5 0.5 0 0.5",
        "x 0.5 0.5 0.2 0.5",
        "0 1.5 0.5 0.2 0.5",
        "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1",
        "0.5 0.5 0.5 0.2 0.5",
    ]
    save("labels/train/a.txt", "\n".join(lines))
    save("labels/train/c.txt", lines[0])
    save("labels/train/d.txt", b"\xff\xff")
    dataset = open_dataset(root)
    assert [len(each.annotations) for each in dataset.images] == [1]
    assert [each.source for each in dataset.unusable] == [
        "data.yaml: val",  # there is no such folder
        *(f"labels/train/a.txt:{line}" for line in range(2, 11)),
        "labels/train/b.txt",
        "labels/train/d.txt",
        "labels/train/c.txt",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: [cat\n", "data.yaml:2 is not YAML"),
        ("train: images\n", "has no `names`"),
        ("- 1", "has no `names`"),
        ("names: [cat]\ntrain: nowhere\n", "names no folder with images"),
        ("names: [cat]\n", "names no folder with images: no folder"),
        ("!!python/object/apply:os.system [ls]", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
    ],
)
def test_useless_descriptions_are_refused(save: Save, content: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(save("data.yaml", content).parent)


# Writing


def load_with_supervision(folder: Path) -> sv.DetectionDataset:
    return sv.DetectionDataset.from_yolo(
        str(folder / "images/train"), str(folder / "labels/train"), str(folder / "data.yaml")
    )


@some
@given(lists_of_images(boxes(), folders=False))
def test_supervision_reads_every_box(images: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("yolo-detect", images, Path(folder, "out"))
        dataset = load_with_supervision(Path(folder, "out"))
        found = {Path(path).name[: Path(path).name.index(" ")]: detections for path, _, detections in dataset}
        assert len(found) == len(images)
        for image in images:
            detections = found[image.name[: image.name.index(" ")]]
            annotations = [label.annotation for label in image.traces]
            assert [dataset.classes[i] for i in detections.class_id] == [
                expect_category(annotation) for annotation in annotations
            ]
            np.testing.assert_allclose(
                detections.xyxy, np.array([n.box for n in annotations]).reshape(-1, 4), atol=0.01
            )


def test_datumaro_reads_every_box(tmp_path: Path) -> None:
    # Datumaro does not look into subfolders of images/train.
    first, second = make_example_images()
    export("yolo-detect", [replace(first, name="1.png"), second], tmp_path / "out")
    dataset = Dataset.import_from(str(tmp_path / "out"), "yolo")
    names = [named.name for named in dataset.categories()[AnnotationType.label]]
    detections = {item.id: [(names[a.label], round_values(a.points, 1)) for a in item.annotations] for item in dataset}
    assert detections == {
        "1": [("cat", (1, 2, 11, 22)), ("cat", (0, 0, 12, 12)), ("object", (0, 0, 1, 1))], "b": [],
    }  # fmt: skip


@some
@given(lists_of_images(quads() | polygons()))
def test_lines_follow_ultralytics_rules(images: list[LabeledImage]) -> None:
    """Labels are where `/images/` becomes `/labels/`; a line has a class and pairs of fractions."""
    with tempfile.TemporaryDirectory() as folder:
        export("yolo-segment", images, Path(folder, "out"))
        data = yaml.safe_load(Path(folder, "out/data.yaml").read_text(encoding="utf-8"))
        assert {"train", "val", "names"} <= data.keys()
        copies = sorted(Path(folder, "out", data["train"]).rglob("*.png"))
        assert len(copies) == len(images)
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
        objects = [each for image in images for each in image.annotations if isinstance(each, Polygon)]
        assert lines == len(objects)
        assert set(data["names"].values()) == {expect_category(each) for each in objects}


def test_supervision_draws_joined_rings_as_pycocotools_draws_them(tmp_path: Path) -> None:
    rings = [[10.0, 10, 200, 20, 100, 200], [300, 300, 500, 300, 500, 400, 300, 420]]
    labels = (TracedAnnotation(Polygon(label="cat", polygons=rings), "cut"),)
    export(
        "yolo-segment",
        [LabeledImage.from_traces("a.png", WIDTH, HEIGHT, labels, make_example_images()[0].read, sha256="0")],
        tmp_path / "out",
    )
    _, _, detections = next(iter(load_with_supervision(tmp_path / "out")))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(expected, [np.array(ring, np.int32).reshape(-1, 2) for ring in rings], 1)
    both = np.logical_and(detections.mask[0], expected).sum() / np.logical_or(detections.mask[0], expected).sum()
    assert len(detections) == 1
    assert both > 0.97  # except for the pixels of the bridge


def test_labels_that_yaml_could_misread_are_quoted(tmp_path: Path) -> None:
    odd = ["yes", "null", "1", "a: b", "# c", "'", '"', "\n", "é🐈", "- x", "{}", "\x00"]
    labels = tuple(TracedAnnotation(Box(label=label, box=(0, 0, 1, 1)), "s") for label in odd)
    export(
        "yolo-detect",
        [LabeledImage.from_traces("a.png", 9, 9, labels, sha256="0")],
        tmp_path / "out",
        placement=ImagePlacement.NONE,
    )
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(odd))
