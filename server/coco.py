"""Annotations as one COCO file: boxes, segmentations and captions, as `instances` and `captions` files have them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompts.annotations import Annotation
from server.jobs.formats import coco
from server.jobs.formats.shapes import Categories


class Coco:
    """A COCO file in the making. Its coordinates are those of the picture as a viewer shows it, EXIF applied."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self._categories = Categories(1)

    def add(self, file_name: str, size: tuple[int, int], annotations: Sequence[Annotation]) -> None:
        """One picture of `size` (width, height) and all its annotations."""
        image = len(self.images) + 1
        self.images.append(coco.image(image, file_name, *size))
        for note in annotations:
            ids = {"id": len(self.annotations) + 1, "image_id": image}
            self.annotations.append({**ids, **coco.entry(note, self._categories)})

    def document(self) -> dict[str, Any]:
        """The file's content. Captions alone have no `categories`, as in COCO's own captions files: readers that find
        the key ask every annotation for its category."""
        shapes = any("category_id" in entry for entry in self.annotations) or not self.annotations
        return {
            "info": {"description": self.description, "version": "1.0"},
            "licenses": [],
            "images": self.images,
            "annotations": self.annotations,
        } | ({"categories": coco.listed(self._categories)} if shapes else {})

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(self.document(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
