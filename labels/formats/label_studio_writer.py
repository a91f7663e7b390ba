"""Label Studio: tasks.json, label_config.xml that fits it, and images/.

Labels are predictions, for a person to take or mend; coordinates are percentages. Copied pictures are addressed as its
local storage serves them when this folder is the document root; others by the names that they had.
"""

import xml.etree.ElementTree as ET
from typing import Any
from urllib.parse import quote

from labels.geometry import to_rings
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.writing import xml
from labels.writing.arrays import Array
from labels.writing.categories import CategoryIds, category_of
from labels.writing.folder import Folder
from labels.writing.report import Report
from labels.writing.writer import Writer
from prompts.annotations import Box, Quad, Text

IMAGE, BOXES, POLYGONS, WORDS, CAPTION = "image", "boxes", "polygons", "words", "caption"


class LabelStudioWriter(Writer):
    """See the file."""

    def __init__(self, folder: Folder, report: Report, *, copies: bool) -> None:
        super().__init__(folder, report, copies=copies)
        self._boxes, self._polygons = CategoryIds(), CategoryIds()
        self._file = folder.stream("tasks.json")
        self._file.write("[")
        self._tasks = Array(self._file)

    def add(self, picture: LabeledImage, name: str) -> int:
        size = (picture.width, picture.height)
        results = [
            r for i, label in enumerate(picture.traced_annotations) for r in self._results(label, f"label-{i}", size)
        ]
        scores = [label.annotation.score for label in picture.traced_annotations if label.annotation.score is not None]
        prediction: dict[str, Any] = {"model_version": "florist", "result": results}
        if scores:
            prediction["score"] = round(min(scores), 6)  # by which Label Studio can show the doubtful first
        address = f"/data/local-files/?d={quote(f'images/{name}')}" if self.copies else name
        data = {IMAGE: address, "name": picture.name}
        self._tasks.append({"id": self.report.pictures, "data": data, "predictions": [prediction]})
        return len(picture.traced_annotations)

    def close(self) -> None:
        self._file.write("\n]\n")
        view = ET.Element("View")
        ET.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true", zoomControl="true")
        for tag, name, categories in (
            ("RectangleLabels", BOXES, self._boxes),
            ("PolygonLabels", POLYGONS, self._polygons),
        ):
            if not categories.by_name:
                continue  # a control without labels is refused
            control = ET.SubElement(view, tag, name=name, toName=IMAGE)
            for value in categories.by_name:
                ET.SubElement(control, "Label", value=value)
        ET.SubElement(view, "TextArea", name=WORDS, toName=IMAGE, perRegion="true", editable="true", maxSubmissions="1")
        ET.SubElement(view, "TextArea", name=CAPTION, toName=IMAGE, editable="true")
        self.folder.write("label_config.xml", xml.fragment(view))

    def _results(self, label: TracedAnnotation, name: str, size: tuple[int, int]) -> list[dict[str, Any]]:
        """One for each ring, and one for the words."""
        note = label.annotation
        common: dict[str, Any] = {
            "to_name": IMAGE,
            "original_width": size[0],
            "original_height": size[1],
            "image_rotation": 0,
        }
        if note.score is not None:
            common["score"] = round(note.score, 6)
        if label.review:
            common["meta"] = {"text": [label.review]}
        if isinstance(note, Text):
            value: dict[str, Any] = {"text": [note.label]}
            return [{"id": name, "type": "textarea", "from_name": CAPTION, **common, "value": value}]
        named = xml.legal(category_of(note))
        if isinstance(note, Box):
            self._boxes.id_of(named)
            (x1, y1), (x2, y2) = _percent(list(note.box), size)
            value = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0, "rectanglelabels": [named]}
            return [{"id": name, "type": "rectanglelabels", "from_name": BOXES, **common, "value": value}]
        self._polygons.id_of(named)
        results = []
        for i, ring in enumerate(to_rings(note)):
            place = {"points": _percent(ring, size), "closed": True}
            region = {"id": f"{name}-{i}" if i else name, **common}
            value = {**place, "polygonlabels": [named]}
            results.append({**region, "type": "polygonlabels", "from_name": POLYGONS, "value": value})
            if isinstance(note, Quad):
                value = {**place, "text": [note.label]}
                results.append({**region, "type": "textarea", "from_name": WORDS, "value": value})
        return results


def _percent(ring: list[float], size: tuple[int, int]) -> list[list[float]]:
    width, height = size
    return [[x / width * 100, y / height * 100] for x, y in zip(ring[::2], ring[1::2], strict=True)]
