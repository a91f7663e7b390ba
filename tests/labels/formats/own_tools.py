"""The tools of the formats, or their rules: what they find in an export, by image file."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import supervision as sv
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from PIL import Image
from pycocotools.coco import COCO

from tests.labels.formats import fiftyone_rules, ultralytics_rules
from tests.labels.formats.consumer_rules import READERS

Found = Iterator[tuple[Path, Counter[str]]]


def check_decoded(pixels: np.ndarray, path: Path) -> None:
    """The tool has decoded the whole image."""
    with Image.open(path) as image:
        assert pixels.shape == (image.height, image.width, 3)


def read_datumaro(format: str, out: Path) -> Found:
    options = {"coordinate_mode": "voc-one-based"} if format.startswith("voc") else {}
    dataset = Dataset.import_from(str(out), format, **options)
    names = [category.name for category in dataset.categories()[AnnotationType.label]]
    for item in dataset:
        check_decoded(item.media.data, Path(item.media.path))
        shapes = [each for each in item.annotations if each.type not in (AnnotationType.caption, AnnotationType.label)]
        # A shape of several rings is several polygons of one group.
        groups = {(each.group or f"own {i}", names[each.label]) for i, each in enumerate(shapes)}
        yield Path(item.media.path), Counter(label for _, label in groups)


def read_pycocotools(out: Path) -> Found:
    coco = COCO(str(out / "annotations/instances_default.json"))
    for number, image in coco.imgs.items():
        annotations = coco.loadAnns(coco.getAnnIds([number]))
        for annotation in annotations:
            if annotation["segmentation"]:  # a box has none
                coco.annToMask(annotation)
        yield out / "images" / image["file_name"], Counter(coco.cats[a["category_id"]]["name"] for a in annotations)


def read_supervision(dataset: sv.DetectionDataset) -> Found:
    for path, image, detections in dataset:
        check_decoded(image, Path(path))
        yield Path(path), Counter(dataset.classes[number] for number in detections.class_id)


def read_supervision_coco(out: Path) -> Found:
    return read_supervision(
        sv.DetectionDataset.from_coco(str(out / "images"), str(out / "annotations/instances_default.json"))
    )


def read_supervision_yolo(out: Path) -> Found:
    folders = out / "images/train", out / "labels/train", out / "data.yaml"
    return read_supervision(sv.DetectionDataset.from_yolo(*map(str, folders)))


def read_ultralytics(out: Path) -> Found:
    for path, rows in ultralytics_rules.load(out / "data.yaml"):
        yield path, Counter(name for name, _ in rows)


def read_fiftyone(out: Path) -> Found:
    for path, rows in fiftyone_rules.load(out / "images", out / "annotations/instances_default.json"):
        yield path, Counter(name for name, _ in rows)


def read_by_rule(name: str, out: Path) -> Found:
    for path, labels in READERS[name](out):
        yield path, Counter(label for _, label, _ in labels)


def read_datasets(out: Path) -> Found:
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    rows = load_dataset(str(out), split="train", cache_dir=str(out.parent / "cache"))
    decoded = [np.asarray(row["image"]) for row in rows]
    for pixels, row in zip(decoded, rows.cast_column("image", ImageFeature(decode=False)), strict=True):
        path = Path(row["image"]["path"])
        check_decoded(pixels, path)
        yield path, Counter(each["category"] for each in row["objects"])


TOOLS: dict[str, tuple[str, Callable[[Path], Found]]] = {
    "COCO, Datumaro": ("coco", lambda out: read_datumaro("coco", out)),
    "COCO, pycocotools": ("coco", read_pycocotools),
    "COCO, supervision": ("coco", read_supervision_coco),
    "COCO, FiftyOne's rules": ("coco", read_fiftyone),
    "YOLO, Ultralytics' rules": ("yolo-detect", read_ultralytics),
    "YOLO, Datumaro": ("yolo-detect", lambda out: read_datumaro("yolo", out)),
    "VOC, Datumaro": ("voc", lambda out: read_datumaro("voc_detection", out)),
    "VOC, the development kit's rules": ("voc", lambda out: read_by_rule("voc", out)),
    "CVAT, Datumaro": ("cvat", lambda out: read_datumaro("cvat", out)),
    "Hugging Face, datasets": ("huggingface", read_datasets),
    "LabelMe's rules": ("labelme", lambda out: read_by_rule("labelme", out)),
    "Label Studio's rules": ("label-studio", lambda out: read_by_rule("label-studio", out)),
}
