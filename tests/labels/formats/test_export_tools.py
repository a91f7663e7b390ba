"""The tools of the formats read exports with hostile names: datumaro, pycocotools, datasets, supervision."""

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from labels.formats import FORMATS
from labels.image_files import ImageFile
from labels.labeled_image import LabeledImage
from labels.writing.export_report import ExportReport
from labels.writing.image_options import ImagePlacement
from tests.labels.formats.own_tools import (
    Found,
    read_datasets,
    read_datumaro,
    read_fiftyone,
    read_pycocotools,
    read_supervision_yolo,
    read_ultralytics,
)
from tests.labels.formats.test_exports import expect_labels, get_number, labeled_images, profile

DATUMARO = {"coco": "coco", "cvat": "cvat", "voc": "voc_detection", "yolo-detect": "yolo"}
FLAT = [""]
placements = st.sampled_from([ImagePlacement.COPY, ImagePlacement.LINK])


def count_classes(name: str, image: LabeledImage, report: ExportReport) -> Counter[str]:
    # Words of COCO are in a file of their own, which these tools do not read.
    skipped = ("text", "quad") if name in ("coco", "huggingface") else ("text",)
    labels = [label for label in expect_labels(name, image.annotations, report) if label[0] not in skipped]
    return Counter("text" if kind == "quad" else label for kind, label, _ in labels)


def check(
    name: str,
    images: list[LabeledImage],
    placement: ImagePlacement,
    read: Callable[[Path], Found],
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
    check(name, images, placement, lambda out: read_datumaro(DATUMARO[name], out))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "cvat", "voc"])
@profile(100, is_fixed=False)
@given(labeled_images(), placements)
def test_datumaro_reads_hundreds_of_exports(name: str, images: list[LabeledImage], placement: ImagePlacement) -> None:
    check(name, images, placement, lambda out: read_datumaro(DATUMARO[name], out))


@profile(10)
@given(labeled_images(), placements)
def test_pycocotools_finds_each_image_with_its_own_labels(
    images: list[LabeledImage], placement: ImagePlacement
) -> None:
    check("coco", images, placement, read_pycocotools)


@profile(10)
@given(labeled_images(FLAT), placements)
def test_supervision_finds_each_image_with_its_own_labels(
    images: list[LabeledImage], placement: ImagePlacement
) -> None:
    check("yolo-detect", images, placement, read_supervision_yolo)


@profile(10)
@given(labeled_images(), placements)
def test_fiftyone_finds_each_image_with_its_own_labels(images: list[LabeledImage], placement: ImagePlacement) -> None:
    assume(any(annotation.kind in ("box", "polygon") for image in images for annotation in image.annotations))

    check("coco", images, placement, read_fiftyone)


@profile(10)
@given(labeled_images([*FLAT, "a b/", "images/", "val/"]), placements)
@pytest.mark.parametrize("name", ["yolo-detect", "yolo-segment"])
def test_ultralytics_finds_each_image_with_its_own_labels(
    name: str, images: list[LabeledImage], placement: ImagePlacement
) -> None:
    check(name, images, placement, read_ultralytics)


@pytest.mark.slow
@profile(10)
@given(labeled_images(), placements)
def test_datasets_finds_each_image_with_its_own_labels(images: list[LabeledImage], placement: ImagePlacement) -> None:
    check("huggingface", images, placement, read_datasets)
