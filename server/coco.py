"""Annotations as one COCO file: boxes, segmentations and captions, as `instances` and `captions` files have them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompts.annotations import Annotation, Box, Polygon, Quad, Text

WORDS = "text"  # the category of words that were read; what they say is in `text`


class Coco:
    """A COCO file in the making. Its coordinates are those of the picture as a viewer shows it, EXIF applied."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}

    def add(self, file_name: str, size: tuple[int, int], annotations: Sequence[Annotation]) -> None:
        """One picture of `size` (width, height) and all its annotations."""
        image = len(self.images) + 1
        self.images.append({"id": image, "file_name": file_name, "width": size[0], "height": size[1]})
        for note in annotations:
            entry = {"id": len(self.annotations) + 1, "image_id": image, **self._entry(note)}
            # Not COCO's own, but what its results files call it.
            self.annotations.append(entry if note.score is None else {**entry, "score": round(note.score, 6)})

    def document(self) -> dict[str, Any]:
        """The file's content. Captions alone have no `categories`, as in COCO's own captions files: readers that find
        the key ask every annotation for its category."""
        shapes = any("category_id" in entry for entry in self.annotations) or not self.annotations
        categories = [{"id": i, "name": name, "supercategory": ""} for name, i in self._categories.items()]
        return {
            "info": {"description": self.description, "version": "1.0"},
            "licenses": [],
            "images": self.images,
            "annotations": self.annotations,
        } | ({"categories": categories} if shapes else {})

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(self.document(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _entry(self, note: Annotation) -> dict[str, Any]:
        match note:
            case Text():
                return {"caption": note.label}
            case Box():
                x1, y1, x2, y2 = note.box
                return self._shape(note.label, [[x1, y1, x2, y1, x2, y2, x1, y2]], (x2 - x1) * (y2 - y1))
            case Quad():
                return {**self._shape(WORDS, [list(note.quad)]), "text": note.label}
            case Polygon():
                return self._shape(note.label, note.polygons)

    def _shape(self, label: str, rings: Sequence[Sequence[float]], area: float | None = None) -> dict[str, Any]:
        xs, ys = [x for ring in rings for x in ring[::2]], [y for ring in rings for y in ring[1::2]]
        left, top = min(xs), min(ys)
        box = [left, top, max(xs) - left, max(ys) - top]
        return {
            "category_id": self._categories.setdefault(label or "object", len(self._categories) + 1),
            "bbox": [round(v, 3) for v in box],
            "area": round(sum(map(_area, rings)) if area is None else area, 3),
            "segmentation": [[round(v, 3) for v in ring] for ring in rings],
            "iscrowd": 0,
        }


def _area(ring: Sequence[float]) -> float:
    """Of a ring x, y, x, y …, by the shoelace formula."""
    points = list(zip(ring[::2], ring[1::2], strict=False))
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2
