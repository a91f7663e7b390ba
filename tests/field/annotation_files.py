"""Small datasets for the tests of what their annotations mean. Images have 200×100 pixels."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.datasets.samples import find_trainable_tasks
from labels.dataset import Dataset
from labels.geometry import bounding_box
from labels.opening import open_dataset
from prompts.annotations import Text

WIDTH, HEIGHT = 200, 100
SIZE = {"width": WIDTH, "height": HEIGHT}


class Folder:
    """A folder in which a dataset is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add_images(self, *names: str, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> "Folder":
        for number, name in enumerate(names):
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.new("RGB", size, (number, 0, 0)).save(file, exif=exif)
        return self

    def add(self, name: str, content: Any) -> "Folder":
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
        return self

    def read(self) -> Dataset:
        return open_dataset(self.path)


def describe(dataset: Dataset) -> dict[str, list[tuple[Any, ...]]]:
    """Returns what is in each image: kind, label and the rounded corners of the bounding box; of captions the text."""
    return {
        image.name: [
            (each.label,) if isinstance(each, Text) else (each.kind, each.label, *map(round, bounding_box(each)))
            for each in image.annotations
        ]
        for image in dataset.images
    }


def list_reasons(dataset: Dataset) -> str:
    return "\n".join(map(str, dataset.unusable))


def list_tasks(dataset: Dataset, name: str) -> set[str]:
    """Returns those of <OD> and <OCR_WITH_REGION> that an image can train."""
    (image,) = (image for image in dataset.images if image.name == name)
    return set(find_trainable_tasks(image) & {"<OD>", "<OCR_WITH_REGION>"})


def make_coco(*annotations: dict[str, Any], images: Any = ("a.jpg",), classes: Any = ("cat", "dog")) -> dict[str, Any]:
    """Returns a document. Annotations are of the first image and class, if they do not say otherwise."""
    return {
        "images": [
            image if isinstance(image, dict) else {"id": number, "file_name": image, **SIZE}
            for number, image in enumerate(images, start=1)
        ],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, **each}
            for number, each in enumerate(annotations, start=1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=1)],
    }


def make_result(kind: str = "rectanglelabels", label: Any = "cat", number: str = "r1", **more: Any) -> dict[str, Any]:
    """Returns a result of Label Studio: a box (20, 20, 80, 60), or more values in `value`."""
    value = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, **more.pop("value", {})}
    if label is not None:
        value[kind] = label if isinstance(label, list) else [label]
    return {"id": number, "type": kind, "to_name": "image", "original_width": WIDTH, "original_height": HEIGHT,
            "value": value, **more}  # fmt: skip


def make_task(*results: Any, data: Any = None, **more: Any) -> dict[str, Any]:
    annotations = [{"id": 1, "result": list(results)}]
    return {"id": 1, "data": data or {"image": "/data/upload/1/a.jpg"}, "annotations": annotations, **more}
