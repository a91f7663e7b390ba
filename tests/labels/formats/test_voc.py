import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from hypothesis import given
from hypothesis import strategies as st

from labels.dataset import DatasetError
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from prompts.annotations import Box, Polygon
from tests.labels.samples import PNG, boxes, export, lists_of_images, make_example_images, some

Save = Callable[..., Path]


def make_object(name: str, *corners: object) -> str:
    sides = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"


def make_document(*objects: str, filename: str = "a.png", size: str = "<width>100</width><height>80</height>") -> str:
    lines = "\n".join(objects)
    return f"<annotation>\n<filename>{filename}</filename><size>{size}</size>\n{lines}\n</annotation>"


def test_pixels_count_from_one_and_the_last_one_is_inside(save: Save) -> None:
    save("JPEGImages/a.png")
    path = save(
        "Annotations/a.xml", make_document(make_object("cat", 1, 1, 100, 80), make_object("dog", 11, 21, 11, 21))
    )
    (example,) = open_dataset(path.parent.parent).images
    assert example.annotations == (Box(label="cat", box=(0, 0, 100, 80)), Box(label="dog", box=(10, 20, 11, 21)))
    assert example.source == "Annotations/a.xml:1"


def test_images_beside_their_xml_files_and_polygons_are_read(save: Save) -> None:
    save("train/a.png")
    polygon = "".join(f"<{a}{n}>{v}</{a}{n}>" for n, (x, y) in enumerate(((1, 1), (50, 1), (50, 40)), 1) for a, v in
                      (("x", x), ("y", y)))  # fmt: skip
    path = save("train/a.xml", make_document(f"<object><name>cat</name><polygon>{polygon}</polygon></object>"))
    for opened in (path.parent, path):
        (example,) = open_dataset(opened).images
        assert example.annotations == (Polygon(label="cat", polygons=[[1, 1, 50, 1, 50, 40]]),)


def test_the_filename_element_is_used_if_no_image_has_the_name_of_the_xml_file(save: Save) -> None:
    save("JPEGImages/other.png")
    path = save(
        "Annotations/a.xml", make_document(make_object("cat", 1, 1, 9, 9), filename="somewhere/other.png", size="")
    )
    assert open_dataset(path.parent.parent).images[0].name == "other.png"


def test_unusable_entries_name_file_and_line(save: Save) -> None:
    save("JPEGImages/a.png"), save("JPEGImages/c.png"), save("JPEGImages/d.png")
    objects = [
        make_object("cat", 1, 1, 9, 9),
        make_object("cat", 9, 1, 1, 9),
        make_object("", 1, 1, 9, 9),
        make_object("cat", "x", 1, 9, 9),
        make_object("cat", 201, 1, 209, 9),
        "<object><name>cat</name></object>",
    ]
    root = save("Annotations/a.xml", make_document(*objects)).parent.parent
    save("Annotations/b.xml", make_document(filename="b.png"))
    save("Annotations/c.xml", "<annotation>\n<object>")
    save("Annotations/d.xml", make_document(filename="d.png", size="<width>9</width><height>9</height>"))
    dataset = open_dataset(root)
    assert len(dataset.images) == 1
    assert [each.source for each in dataset.unusable] == [
        *(f"Annotations/a.xml:{line}" for line in range(4, 9)),
        "Annotations/b.xml:1",
        "Annotations/c.xml",
        "Annotations/d.xml:1",
    ]
    assert "c.xml:2 is not XML" in dataset.unusable[-2].reason
    assert "9×9" in dataset.unusable[-1].reason


def test_a_document_type_is_refused_before_its_entities_expand(save: Save) -> None:
    save("a.png")
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    declared = f'<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY e0 "ha">{entities}]>\n'
    with pytest.raises(DatasetError, match=r"a\.xml:2 declares a document type"):
        open_dataset(save("a.xml", f"{declared}<annotation><filename>&e9;</filename></annotation>"))


# Writing

words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=9)


@some
@given(lists_of_images(boxes(words), names=words))
def test_datumaro_reads_every_box(images: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("voc", images, Path(folder, "out"))
        dataset = Dataset.import_from(folder + "/out", "voc_detection", coordinate_mode="voc-one-based")
        names = [c.name for c in dataset.categories()[AnnotationType.label]]
        found = {item.id: item for item in dataset}
        assert len(found) == len(images)
        for image in images:
            item = found[image.name.removesuffix(".png")]
            assert Path(item.media.path).read_bytes() == PNG
            annotations = [label.annotation for label in image.traces]
            assert [names[a.label] for a in item.annotations] == [annotation.label for annotation in annotations]
            detections = np.array([a.points for a in item.annotations]).reshape(-1, 4)
            assert (
                np.abs(detections - np.array([annotation.box for annotation in annotations]).reshape(-1, 4)).max(
                    initial=0
                )
                <= 0.5
            )


def test_supervision_reads_every_box(tmp_path: Path) -> None:
    flat = [LabeledImage.from_traces("1.png", 640, 480, make_example_images()[0].traces, lambda: PNG, sha256="0")]
    export("voc", flat, tmp_path / "out")
    dataset = sv.DetectionDataset.from_pascal_voc(str(tmp_path / "out/JPEGImages"), str(tmp_path / "out/Annotations"))
    _, _, detections = next(iter(dataset))
    assert [dataset.classes[i] for i in detections.class_id] == ["cat", "cat", "object"]
    assert detections.xyxy.tolist() == [[1, 2, 11, 22], [0, 0, 12, 12], [0, 0, 1, 1]]


def test_what_is_thinner_than_a_pixel_keeps_one(tmp_path: Path) -> None:
    labels = (TracedAnnotation(Box(label="hair", box=(5.1, 5.1, 5.2, 9)), "s"),)
    export("voc", [LabeledImage.from_traces("1.png", 640, 480, labels, lambda: PNG, sha256="0")], tmp_path / "out")
    dataset = sv.DetectionDataset.from_pascal_voc(str(tmp_path / "out/JPEGImages"), str(tmp_path / "out/Annotations"))
    assert next(iter(dataset))[2].xyxy.tolist() == [[5, 5, 6, 9]]


def test_labels_that_the_label_map_cannot_hold_are_the_same_in_both_files(tmp_path: Path) -> None:
    odd = ["time: now", "# 1", "a\nb", ":", "</name>"]
    labels = tuple(TracedAnnotation(Box(label=label, box=(0, 0, 1, 1)), "s") for label in odd)
    export("voc", [LabeledImage.from_traces("1.png", 640, 480, labels, lambda: PNG, sha256="0")], tmp_path / "out")
    dataset = Dataset.import_from(str(tmp_path / "out"), "voc_detection")
    names = [c.name for c in dataset.categories()[AnnotationType.label]]
    (item,) = dataset
    assert [names[a.label] for a in item.annotations] == ["time now", "1", "a b", "object", "</name>"]
