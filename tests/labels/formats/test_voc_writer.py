import tempfile
from pathlib import Path

import numpy as np
import supervision as sv
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from hypothesis import given
from hypothesis import strategies as st

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box
from tests.labels.samples import PNG, boxes, datasets, example, export, some

words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=9)


@some
@given(datasets(boxes(words), names=words))
def test_datumaro_reads_every_box(pictures: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("voc", pictures, Path(folder, "out"))
        dataset = Dataset.import_from(folder + "/out", "voc_detection", coordinate_mode="voc-one-based")
        names = [c.name for c in dataset.categories()[AnnotationType.label]]
        found = {item.id: item for item in dataset}
        assert len(found) == len(pictures)
        for picture in pictures:
            item = found[picture.name.removesuffix(".png")]
            assert Path(item.media.path).read_bytes() == PNG
            notes = [label.annotation for label in picture.traces]
            assert [names[a.label] for a in item.annotations] == [note.label for note in notes]
            said = np.array([a.points for a in item.annotations]).reshape(-1, 4)
            assert np.abs(said - np.array([note.box for note in notes]).reshape(-1, 4)).max(initial=0) <= 0.5


def test_supervision_reads_every_box(tmp_path: Path) -> None:
    flat = [LabeledImage.from_traces("1.png", 640, 480, example()[0].traces, lambda: PNG, sha256="0")]
    export("voc", flat, tmp_path / "out")
    dataset = sv.DetectionDataset.from_pascal_voc(str(tmp_path / "out/JPEGImages"), str(tmp_path / "out/Annotations"))
    _, _, said = next(iter(dataset))
    assert [dataset.classes[i] for i in said.class_id] == ["cat", "object"]
    assert said.xyxy.tolist() == [[1, 2, 11, 22], [0, 0, 1, 1]]


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
