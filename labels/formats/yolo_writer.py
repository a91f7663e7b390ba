"""YOLO, as Ultralytics reads it: data.yaml, images/train/, labels/train/ with one file a picture.

A line is a category's number and fractions of the picture's width and height. There is no place for scores.
"""

from abc import abstractmethod
from typing import ClassVar

import yaml

from labels.geometry import Shape, to_rings
from labels.labeled_image import LabeledImage
from labels.writing.categories import CategoryIds, category_of, describe_kind
from labels.writing.folder import Folder
from labels.writing.report import Report
from labels.writing.writer import Writer
from prompts.annotations import Box, Polygon, Quad

_HEAD = "# Nothing is kept apart for validation: split images/ and labels/ before you trust a figure.\n"


class _YoloWriter(Writer):
    pictures: ClassVar[str] = "images/train"
    sidecars: ClassVar[tuple[str, str] | None] = ("labels/train", ".txt")
    shapes: ClassVar[tuple[type[Shape], ...]]

    def __init__(self, folder: Folder, report: Report, *, copies: bool) -> None:
        super().__init__(folder, report, copies=copies)
        self._categories = CategoryIds()

    def add(self, picture: LabeledImage, name: str) -> int:
        lines = []
        for note in picture.annotations:
            if not isinstance(note, self.shapes):
                self.report.left_out[describe_kind(note)] += 1
                continue
            if note.score is not None:
                self.report.left_out["scores"] += 1
            values = self._values(note, picture.width, picture.height)
            numbers = " ".join(f"{min(max(v, 0.0), 1.0):.6f}" for v in values)
            lines.append(f"{self._categories.id_of(category_of(note))} {numbers}\n")
        self.sidecar(name, "".join(lines))
        return len(lines)

    def close(self) -> None:
        names = {number: name for name, number in self._categories.by_name.items()}
        data = {"train": "images/train", "val": "images/train", "names": names}
        self.folder.write("data.yaml", _HEAD + yaml.safe_dump(data, allow_unicode=True, sort_keys=False, width=1000))

    @abstractmethod
    def _values(self, shape: Shape, width: int, height: int) -> list[float]: ...


class YoloDetectWriter(_YoloWriter):
    """Boxes. The boxes of polygons are not taken: a picture whose boxes were segmented would have each thing twice."""

    shapes = (Box,)

    def _values(self, shape: Shape, width: int, height: int) -> list[float]:
        assert isinstance(shape, Box)
        x1, y1, x2, y2 = shape.box
        return [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]


class YoloSegmentWriter(_YoloWriter):
    """Polygons and quads. A line holds one ring, so several are joined by bridges without width."""

    shapes = (Polygon, Quad)

    def _values(self, shape: Shape, width: int, height: int) -> list[float]:
        first, *others = to_rings(shape)
        ring = list(first)
        for other in others:
            # There from the first's first corner, around, and back.
            ring += [*first[:2], *other, *other[:2]]
        return [v / (height if i % 2 else width) for i, v in enumerate(ring)]
