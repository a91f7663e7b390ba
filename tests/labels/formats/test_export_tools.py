"""The tools of the formats read exports with hostile names: datumaro, pycocotools, datasets, supervision."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import supervision as sv
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from hypothesis import assume, given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from labels.formats import FORMATS
from labels.image_files import ImageFile
from labels.labeled_image import LabeledImage
from labels.writing.export_report import ExportReport
from labels.writing.image_options import ImagePlacement
from tests.labels.formats import fiftyone_rules, ultralytics_rules
from tests.labels.formats.test_exports import expect_labels, get_number, labeled_images, profile

DATUMARO = {"coco": "coco", "cvat": "cvat", "voc": "voc_detection", "yolo-detect": "yolo"}
FLAT = [""]
placements = st.sampled_from([ImagePlacement.COPY, ImagePlacement.LINK])


def read_with_datumaro(name: str, out: Path) -> Iterator[tuple[Path, Counter[str]]]:
    options = {"coordinate_mode": "voc-one-based"} if name == "voc" else {}
    dataset = Dataset.import_from(str(out), DATUMARO[name], **options)
    names = [category.name for category in dataset.categories()[AnnotationType.label]]
    for item in dataset:
        shapes = [each for each in item.annotations if each.type not in (AnnotationType.caption, AnnotationType.label)]
        # A shape of several rings is several polygons of one group.
        groups = {(each.group or f"own {i}", names[each.label]) for i, each in enumerate(shapes)}
        yield Path(item.media.path), Counter(label for _, label in groups)


def count_classes(name: str, image: LabeledImage, report: ExportReport) -> Counter[str]:
    # Words of COCO are in a file of their own, which these tools do not read.
    skipped = ("text", "quad") if name in ("coco", "huggingface") else ("text",)
    labels = [label for label in expect_labels(name, image.annotations, report) if label[0] not in skipped]
    return Counter("text" if kind == "quad" else label for kind, label, _ in labels)


def check(
    name: str,
    images: list[LabeledImage],
    placement: ImagePlacement,
    read: Callable[[Path], Iterator[tuple[Path, Counter[str]]]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        files = [ImageFile(Path(folder, str(number))) for number in range(len(images))]
        for file, image in zip(files, images, strict=True):
            file.path.write_bytes(image.read())
        given = [replace(image, open=file) for file, image in zip(files, images, strict=True)]
        report = FORMATS[name].write(given, out, placement)
        if any("differ only in the suffix" in what for what in report.warnings):
            return  # the tool refuses it, and the export says so
        seen = []
        for path, found in read(out):
            seen.append(number := get_number(path))
            assert found == count_classes(name, images[number], report)
        assert sorted(seen) == list(range(len(images)))


@pytest.mark.parametrize("name", DATUMARO)
@profile(20)
@given(labeled_images(FLAT), placements)
def test_datumaro_finds_each_image_with_its_own_labels(
    name: str, images: list[LabeledImage], placement: ImagePlacement
) -> None:
    check(name, images, placement, lambda out: read_with_datumaro(name, out))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "cvat", "voc"])
@profile(100, is_fixed=False)
@given(labeled_images(), placements)
def test_datumaro_reads_hundreds_of_exports(name: str, images: list[LabeledImage], placement: ImagePlacement) -> None:
    check(name, images, placement, lambda out: read_with_datumaro(name, out))


@profile(10)
@given(labeled_images(), placements)
def test_pycocotools_finds_each_image_with_its_own_labels(
    images: list[LabeledImage], placement: ImagePlacement
) -> None:
    def read(out: Path) -> Iterator[tuple[Path, Counter[str]]]:
        coco = COCO(str(out / "annotations/instances_default.json"))
        for number, image in coco.imgs.items():
            annotations = coco.loadAnns(coco.getAnnIds([number]))
            for annotation in annotations:
                if annotation["segmentation"]:  # a box has none
                    coco.annToMask(annotation)
            classes = Counter(coco.cats[each["category_id"]]["name"] for each in annotations)
            yield out / "images" / image["file_name"], classes

    check("coco", images, placement, read)


@profile(10)
@given(labeled_images(FLAT), placements)
def test_supervision_finds_each_image_with_its_own_labels(
    images: list[LabeledImage], placement: ImagePlacement
) -> None:
    def read(out: Path) -> Iterator[tuple[Path, Counter[str]]]:
        folders = out / "images/train", out / "labels/train", out / "data.yaml"
        dataset = sv.DetectionDataset.from_yolo(*map(str, folders))
        for path, _, detections in dataset:
            yield Path(path), Counter(dataset.classes[number] for number in detections.class_id)

    check("yolo-detect", images, placement, read)


@profile(10)
@given(labeled_images(), placements)
def test_fiftyone_finds_each_image_with_its_own_labels(images: list[LabeledImage], placement: ImagePlacement) -> None:
    assume(any(annotation.kind in ("box", "polygon") for image in images for annotation in image.annotations))

    def read(out: Path) -> Iterator[tuple[Path, Counter[str]]]:
        for path, rows in fiftyone_rules.load(out / "images", out / "annotations/instances_default.json"):
            yield path, Counter(name for name, _ in rows)

    check("coco", images, placement, read)


@profile(10)
@given(labeled_images([*FLAT, "a b/", "images/", "val/"]), placements)
@pytest.mark.parametrize("name", ["yolo-detect", "yolo-segment"])
def test_ultralytics_finds_each_image_with_its_own_labels(
    name: str, images: list[LabeledImage], placement: ImagePlacement
) -> None:
    def read(out: Path) -> Iterator[tuple[Path, Counter[str]]]:
        for path, rows in ultralytics_rules.load(out / "data.yaml"):
            yield path, Counter(label for label, _ in rows)

    check(name, images, placement, read)


@pytest.mark.slow
@profile(10)
@given(labeled_images(), placements)
def test_datasets_finds_each_image_with_its_own_labels(images: list[LabeledImage], placement: ImagePlacement) -> None:
    from datasets import Image, load_dataset

    def read(out: Path) -> Iterator[tuple[Path, Counter[str]]]:
        rows = load_dataset(str(out), split="train", cache_dir=os.path.join(out.parent, "cache"))  # noqa: PTH118
        for row in rows.cast_column("image", Image(decode=False)):
            classes = Counter(each["category"] for each in row["objects"])
            yield Path(row["image"]["path"]), classes

    check("huggingface", images, placement, read)
