"""LabelMe: a JSON file beside each picture. Captions have no place.

Beside what LabelMe has, shapes carry `score`, which it keeps; words that were read, and why a person should look, are
in the description.
"""

from pathlib import PurePosixPath
from typing import Any, ClassVar

from labels.geometry import to_rings
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.writing.arrays import line
from labels.writing.categories import category_of, describe_kind
from labels.writing.writer import Writer
from prompts.annotations import Box, Quad, Text

_VERSION = "5.0.0"  # of LabelMe, from which on it reads what is written here


class LabelMeWriter(Writer):
    """See the file."""

    pictures: ClassVar[str] = "."
    sidecars: ClassVar[tuple[str, str] | None] = (".", ".json")

    def add(self, picture: LabeledImage, name: str) -> int:
        written, shapes = 0, list[dict[str, Any]]()
        for group, label in enumerate(picture.traced_annotations, start=1):
            if isinstance(label.annotation, Text):
                self.report.left_out[describe_kind(label.annotation)] += 1
                continue
            shapes += _shapes(label, group)
            written += 1
        document: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": PurePosixPath(name if self.copies else picture.name).name,
            "imageData": None,
            "imageHeight": picture.height,
            "imageWidth": picture.width,
        }
        self.sidecar(name, line(document) + "\n")
        return written


def _shapes(label: TracedAnnotation, group: int) -> list[dict[str, Any]]:
    note = label.annotation
    assert not isinstance(note, Text)
    if isinstance(note, Box):
        outlines, kind = [list(note.box)], "rectangle"
    else:
        outlines, kind = to_rings(note), "polygon"
    described = [note.label if isinstance(note, Quad) else "", label.review]
    return [
        {
            "label": category_of(note),
            "points": [[round(x, 3), round(y, 3)] for x, y in zip(ring[::2], ring[1::2], strict=True)],
            # Rings of one thing are shapes of one group.
            "group_id": group if len(outlines) > 1 else None,
            "description": "\n".join(filter(None, described)),
            "shape_type": kind,
            "flags": {},
        }
        | ({} if note.score is None else {"score": round(note.score, 6)})
        for ring in outlines
    ]
