"""CVAT XML 1.1 for images: annotations.xml and images/; https://docs.cvat.ai/docs/manual/advanced/xml_format/.

Captions are tags. Attributes carry scores, words that were read, captions, and why a person should look.
"""

import shutil
import xml.etree.ElementTree as ET

from labels.geometry import to_rings
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.writing import xml
from labels.writing.categories import CategoryIds, category_of
from labels.writing.folder import Folder
from labels.writing.report import Report
from labels.writing.writer import Writer
from prompts.annotations import Box, Quad, Text

CAPTION = "caption"
_ATTRIBUTES = ("score", "text", "review")
_BODY = ".body"


class CvatWriter(Writer):
    """See the file."""

    def __init__(self, folder: Folder, report: Report, *, copies: bool) -> None:
        super().__init__(folder, report, copies=copies)
        self._categories = CategoryIds()
        self._body = folder.stream(_BODY)  # the list of labels stands before it, and is known after it

    def add(self, picture: LabeledImage, name: str) -> int:
        number = self.report.pictures - 1
        size = {"width": picture.width, "height": picture.height}
        image = ET.Element("image", xml.attributes(id=number, name=name, **size))
        for group, label in enumerate(picture.traced_annotations, start=1):
            self._add(image, label, group)
        self._body.write(xml.fragment(image, level=1))
        return len(picture.traced_annotations)

    def close(self) -> None:
        meta = ET.Element("meta")
        task = ET.SubElement(meta, "task")
        xml.texts(task, name="florist", size=self.report.pictures, mode="annotation")
        labels = ET.SubElement(task, "labels")
        for name in self._categories.by_name:
            label = ET.SubElement(labels, "label")
            xml.texts(label, name=name)
            attributes = ET.SubElement(label, "attributes")
            for attribute in _ATTRIBUTES:
                described = {"name": attribute, "mutable": "False", "input_type": "text"}
                xml.texts(ET.SubElement(attributes, "attribute"), **described, default_value="", values="")
        file = self.folder.stream("annotations.xml")
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        file.write(xml.fragment(meta, level=1))
        self._body.seek(0)
        shutil.copyfileobj(self._body, file)
        file.write("</annotations>\n")
        self.folder.remove(_BODY)

    def _add(self, image: ET.Element, label: TracedAnnotation, group: int) -> None:
        note = label.annotation
        name = xml.legal(CAPTION if isinstance(note, Text) else category_of(note))
        self._categories.id_of(name)
        common = xml.attributes(label=name, source="auto")
        match note:
            case Text():
                elements = [ET.SubElement(image, "tag", common)]
            case Box():
                corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{v:.3f}" for v in note.box), strict=True))
                elements = [ET.SubElement(image, "box", {**common, "occluded": "0", **corners, "z_order": "0"})]
            case _:
                outlines = to_rings(note)
                # Rings of one thing are shapes of one group.
                grouped = {"group_id": str(group)} if len(outlines) > 1 else {}
                elements = [
                    ET.SubElement(
                        image,
                        "polygon",
                        {**common, "occluded": "0", "points": _points(ring), "z_order": "0", **grouped},
                    )
                    for ring in outlines
                ]
        said = {
            "score": None if note.score is None else round(note.score, 6),
            "text": note.label if isinstance(note, Text | Quad) else None,
            "review": label.review or None,
        }
        for element in elements:
            for attribute, value in said.items():
                if value is not None:
                    ET.SubElement(element, "attribute", {"name": attribute}).text = xml.legal(value)


def _points(ring: list[float]) -> str:
    return ";".join(f"{x:.3f},{y:.3f}" for x, y in zip(ring[::2], ring[1::2], strict=True))
