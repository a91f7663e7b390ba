"""Pascal VOC: Annotations/, JPEGImages/, ImageSets/Main/default.txt, and labelmap.txt, for which CVAT and Datumaro ask.

Boxes only, in the development kit's whole pixels: they begin at 1, and the last one is inside. No place for scores.
"""

import xml.etree.ElementTree as ET
from pathlib import PurePosixPath
from typing import ClassVar

from labels.labeled_image import LabeledImage
from labels.writing import xml
from labels.writing.categories import CategoryIds, category_of, describe_kind
from labels.writing.folder import Folder
from labels.writing.report import Report
from labels.writing.writer import Writer
from prompts.annotations import Box


class VocWriter(Writer):
    """See the file."""

    pictures: ClassVar[str] = "JPEGImages"
    sidecars: ClassVar[tuple[str, str] | None] = ("Annotations", ".xml")

    def __init__(self, folder: Folder, report: Report, *, copies: bool) -> None:
        super().__init__(folder, report, copies=copies)
        self._categories = CategoryIds()
        self._listed = folder.stream("ImageSets/Main/default.txt")

    def add(self, picture: LabeledImage, name: str) -> int:
        root = ET.Element("annotation")
        xml.texts(root, folder="", filename=name if self.copies else picture.name)
        xml.texts(ET.SubElement(root, "source"), database="florist")
        xml.texts(ET.SubElement(root, "size"), width=picture.width, height=picture.height, depth=3)
        xml.texts(root, segmented=0)
        written = 0
        for note in picture.annotations:
            if not isinstance(note, Box):
                self.report.left_out[describe_kind(note)] += 1
                continue
            if note.score is not None:
                self.report.left_out["scores"] += 1
            written += 1
            self._categories.id_of(named := _name(category_of(note)))
            thing = ET.SubElement(root, "object")
            xml.texts(thing, name=named, pose="Unspecified", truncated=0, difficult=0)
            x1, y1, x2, y2 = (round(v) for v in note.box)
            # What is thinner than a pixel keeps one.
            xml.texts(
                ET.SubElement(thing, "bndbox"), xmin=x1 + 1, ymin=y1 + 1, xmax=max(x2, x1 + 1), ymax=max(y2, y1 + 1)
            )
        self.sidecar(name, xml.document(root))
        self._listed.write(f"{PurePosixPath(name).with_suffix('')}\n")
        return written

    def close(self) -> None:
        names = ("background", *(name for name in self._categories.by_name if name != "background"))
        rows = "".join(f"{name}:::\n" for name in names)
        self.folder.write("labelmap.txt", f"# label:color_rgb:parts:actions\n{rows}")


def _name(label: str) -> str:
    """The label as a line of labelmap.txt can hold it, where colons divide; both files must say the same."""
    return " ".join(label.replace(":", " ").split()).lstrip("# ") or "object"
