"""Loads a dataset as FiftyOne's COCODetectionDatasetImporter does; after fiftyone/utils/coco.py, without its code."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

Rows = list[tuple[str, list[float]]]
_OBJECT_FIELDS = {"id", "image_id", "category_id", "bbox", "segmentation", "keypoints", "score", "area", "iscrowd"}
_LABEL_FIELDS = {"label", "bounding_box", "mask", "confidence", "id", "tags", "index"}


def load(data_path: Path, labels_path: Path) -> Iterator[tuple[Path, Rows]]:
    """Yields the path of each image with the classes and the corners (fractions of the image) of its detections."""
    document = json.loads(labels_path.read_text(encoding="utf-8"))
    files = {
        os.path.normpath(path.relative_to(data_path)): path
        for path in data_path.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    categories = {category["id"]: category["name"] for category in document["categories"]}
    classes = [categories.get(number, str(number)) for number in range(max(categories) + 1)]
    by_image: dict[int, Rows] = {}
    names = [image["file_name"] for image in document["images"]]
    assert len(set(names)) == len(names), "FiftyOne tells images apart by their names"
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    for annotation in document["annotations"]:
        # The importer passes all other keys on, to the object and to the label: none may be a field of theirs.
        nested = annotation.pop("attributes", {})
        assert not _OBJECT_FIELDS & nested.keys()
        attributes = {key: value for key, value in {**annotation, **nested}.items() if key not in _OBJECT_FIELDS}
        assert not _LABEL_FIELDS & attributes.keys()
        x, y, width, height = annotation["bbox"]
        w, h = sizes[annotation["image_id"]]
        row = classes[annotation["category_id"]], [x / w, y / h, (x + width) / w, (y + height) / h]
        by_image.setdefault(annotation["image_id"], []).append(row)
    for image in document["images"]:
        yield files[os.path.normpath(image["file_name"])], by_image.get(image["id"], [])
