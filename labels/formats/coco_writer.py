"""COCO, as its `instances` and `captions` files are; https://cocodataset.org/#format-data.

Beside what COCO has, annotations carry `score`, as its results files call it, and words that were read `text`.
"""

import shutil
from typing import Any

from labels.geometry import area, bounds, to_rings
from labels.labeled_image import LabeledImage
from labels.writing.arrays import Array
from labels.writing.categories import CategoryIds, category_of
from labels.writing.folder import Folder
from labels.writing.report import Report
from labels.writing.writer import Writer
from prompts.annotations import Annotation, Box, Quad, Text

_IMAGES = ".images"


def entry(note: Annotation, categories: CategoryIds) -> dict[str, Any]:
    """An annotation without its ids; its category is looked up in, or added to, `categories`."""
    said = _said(note, categories)
    return said if note.score is None else {**said, "score": round(note.score, 6)}


def image(number: int, file_name: str, width: int, height: int) -> dict[str, Any]:
    """An entry of `images`."""
    return {"id": number, "file_name": file_name, "width": width, "height": height}


def listed(categories: CategoryIds) -> list[dict[str, Any]]:
    """The list of `categories`."""
    return [{"id": i, "name": name, "supercategory": ""} for name, i in categories.by_name.items()]


def _said(note: Annotation, categories: CategoryIds) -> dict[str, Any]:
    if isinstance(note, Text):
        return {"caption": note.label}
    outlines = to_rings(note)
    x1, y1, x2, y2 = bounds(outlines)
    said = {
        "category_id": categories.id_of(category_of(note)),
        "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
        "area": round((x2 - x1) * (y2 - y1) if isinstance(note, Box) else sum(map(area, outlines)), 3),
        "segmentation": [[round(v, 3) for v in ring] for ring in outlines],
        "iscrowd": 0,
    }
    return {**said, "text": note.label} if isinstance(note, Quad) else said


class CocoWriter(Writer):
    """annotations/instances_default.json, annotations/captions_default.json, images/. Both files list all pictures."""

    def __init__(self, folder: Folder, report: Report, *, copies: bool) -> None:
        super().__init__(folder, report, copies=copies)
        self._categories = CategoryIds(1)
        self._pictures = folder.stream(_IMAGES)
        # In two files, since readers ask every annotation of a file that has categories for its own.
        self._instances = folder.stream("annotations/instances_default.json")
        self._captions = folder.stream("annotations/captions_default.json")
        for file in (self._instances, self._captions):
            file.write('{"info":{"description":"florist","version":"1.0"},"licenses":[],\n"annotations":[')
        self._images, self._shapes, self._texts = map(Array, (self._pictures, self._instances, self._captions))
        self._annotations = 0

    def add(self, picture: LabeledImage, name: str) -> int:
        number = self.report.pictures
        self._images.append(image(number, name, picture.width, picture.height))
        for label in picture.traced_annotations:
            self._annotations += 1
            said = {"id": self._annotations, "image_id": number, **entry(label.annotation, self._categories)}
            (self._texts if isinstance(label.annotation, Text) else self._shapes).append(said)
        return len(picture.traced_annotations)

    def close(self) -> None:
        self._instances.write('\n],\n"categories":[')
        categories = Array(self._instances)
        for category_entry in listed(self._categories):
            categories.append(category_entry)
        for file in (self._instances, self._captions):
            file.write('\n],\n"images":[')
            self._pictures.seek(0)
            shutil.copyfileobj(self._pictures, file)
            file.write("\n]}\n")
        self.folder.remove(_IMAGES)
