"""CVAT XML 1.1 for images: annotations.xml and images/; https://docs.cvat.ai/docs/manual/advanced/xml_format/.

Words and captions have their text in an attribute called `text`; captions are tags. Points, polylines, cuboids and
skeletons are not used; ellipses become polygons. The writer adds the attributes `score` and `review` (why a person
should check an annotation).
"""

import shutil
import xml.etree.ElementTree as ET
from typing import ClassVar

from labels import masks
from labels.dataset import Dataset, DatasetError
from labels.geometry import box_to_ring, ellipse_to_ring, rotate_ring, to_points, to_rings
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.reading.documents import Element
from labels.reading.image_draft import ImageDraft
from labels.reading.split_files import SplitFiles
from labels.split_names import normalize_split
from labels.writing import xml
from labels.writing.categories import REVIEW, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.image_options import ImageOptions
from prompts.annotations import Box, Quad, Text

CAPTION = "caption"
_TEXT_ATTRIBUTES = ("text", "transcription")  # would make a word of an object
_KNOWN_ATTRIBUTES = (*_TEXT_ATTRIBUTES, "score", REVIEW)
_BODY = ".body"


def is_cvat(root: Element) -> bool:
    """Returns whether an XML document is CVAT's."""
    return root.tag == "annotations" and any(
        root.find(tag) is not None for tag in ("image", "track", "meta", "version")
    )


def recognize(source: DatasetSource) -> bool:
    """Returns whether one of the XML files is CVAT's."""
    return any(is_cvat(root) for _, root in source.iter_xml())


def read(source: DatasetSource) -> Dataset:
    """Returns the images and labels of the CVAT files. Names of images begin with the subset, if there are several.

    Raises DatasetError.
    """
    documents = [(path, root) for path, root in source.iter_xml() if is_cvat(root)]
    splits = SplitFiles([path for path, _ in documents], source)
    builder = DatasetBuilder(source.path)
    for path, root in documents:
        if root.find("track") is not None:
            raise DatasetError(f"{path} labels a video; export the task as CVAT for images")
        images = list(root.iterfind("image"))
        if not path.is_relative_to(source.folder):  # the folder of a subset was opened
            own = normalize_split(source.folder.absolute().name)
            images = [image for image in images if normalize_split(image.get("subset", "")) == own]
        subsets = {image.get("subset", "") for image in images}
        for image in images:
            where = f"{splits.get_source(path)}:{image.sourceline}"
            subset = image.get("subset", "")
            try:
                folders = source.resolver.layout.list_folders(path, subset or splits.get_split(path), subsets)
                found = source.resolver.find(image.get("name", ""), folders)
            except OSError as error:
                builder.refuse(where, str(error))
                continue
            splits.check_image(path, found.path)
            prefix = splits.get_prefix(path) + (f"{subset}/" if len(subsets) > 1 and subset else "")
            size = checks.parse_size(image.get("width"), image.get("height"))
            if draft := builder.add_found(found, where, size, prefix=prefix):
                _read_image(image, draft, splits.get_source(path))
    return builder.build()


def _read_image(image: Element, draft: ImageDraft, file: str) -> None:
    groups: dict[tuple[str, str], list[Element]] = {}
    for element in image:
        where = f"{file}:{element.sourceline}"
        group = element.get("group_id")
        match element.tag:
            case "tag":
                _add_caption(element, draft, where)
            case "polygon" if group and group != "0" and _find_words(element) is None:
                # The rings of one object are polygons of one group.
                groups.setdefault((element.get("label", ""), group), []).append(element)
            case "box" | "polygon" | "mask" | "ellipse":
                _add_shape([element], draft, where)
            case _ if element.get("label"):
                reason = f"a {element.tag} cannot be used; draw a box or a polygon"
                draft.leave_out(where, reason, element.get("label"))
            case _:
                draft.refuse_label(LabelKind.OBJECTS, where, f"a {element.tag} cannot be used; draw a box or a polygon")
        if element.get("occluded") == "1":
            draft.builder.note_once(file, "the flag 'occluded' is not used")
    for elements in groups.values():
        _add_shape(elements, draft, f"{file}:{elements[0].sourceline}")


def _add_caption(element: Element, draft: ImageDraft, where: str) -> None:
    words = _find_words(element)
    if words is None:
        draft.builder.refuse(where, "a tag without a text cannot train anything")
    else:
        _describe(element, draft.add(LabelKind.CAPTIONS, where, checks.check_caption, words), draft, where)


def _find_words(element: Element) -> str | None:
    for attribute in element.iterfind("attribute"):
        if attribute.get("name") in _TEXT_ATTRIBUTES and attribute.text:
            return attribute.text
    return None


def _add_shape(elements: list[Element], draft: ImageDraft, where: str) -> None:
    """Adds a word, a box, or the polygon of an object with several rings."""
    name, words = elements[0].get("label"), _find_words(elements[0])
    kind = LabelKind.OBJECTS if words is None else LabelKind.WORDS
    rings, problems = list[list[float]](), list[str]()
    for element in elements:
        try:
            rings += _read_rings(element, draft.size)
        except LabelError as error:
            problems.append(str(error))
    if not rings:
        draft.refuse_label(kind, where, problems[0])
        return
    if words is not None:
        added: object = draft.add(kind, where, checks.check_words, words, rings, draft.size)
        draft.leave_out_class(where, name)
    elif elements[0].tag == "box" and not _find_rotation(elements[0]):
        x1, y1, _, _, x2, y2, _, _ = rings[0]
        added = draft.add(kind, where, checks.check_box, name, [x1, y1, x2, y2], draft.size)
    else:
        added = draft.add_outline(where, name, rings)
    _describe(elements[0], added, draft, where)
    for problem in problems if added else ():
        draft.leave_out(where, f"{problem}; only its other rings are used")


def _describe(element: Element, added: object, draft: ImageDraft, where: str) -> None:
    """Gives an annotation its attributes."""
    attributes = {each.get("name", ""): each.text for each in element.iterfind("attribute")}
    own = {name: text for name, text in attributes.items() if name not in _KNOWN_ATTRIBUTES}
    draft.describe(where, added, own)


def _read_rings(element: Element, size: Size) -> list[list[float]]:
    if element.tag == "mask":
        return masks.decode_cvat_mask(element, size)
    if element.tag == "polygon":
        return [_read_points(element.get("points", ""))]
    if element.tag == "ellipse":
        x, y, width, height = (checks.check_number(element.get(key)) for key in ("cx", "cy", "rx", "ry"))
        return [rotate_ring(ellipse_to_ring((x, y), width, height), _find_rotation(element), (x, y))]
    x1, y1, x2, y2 = (checks.check_number(element.get(side)) for side in ("xtl", "ytl", "xbr", "ybr"))
    center = (x1 + x2) / 2, (y1 + y2) / 2
    return [rotate_ring(box_to_ring((x1, y1, x2, y2)), _find_rotation(element), center)]


def _find_rotation(element: Element) -> float:
    """Returns the degrees by which a shape is turned around its center."""
    return checks.check_number(element.get("rotation", "0")) % 360


def _read_points(text: str) -> list[float]:
    pairs = [pair.split(",") for pair in text.split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise LabelError(f"its points {text[:60]!r} are not x,y;x,y;…")
    return [checks.check_number(value.strip()) for pair in pairs for value in pair]


class CvatWriter(DatasetWriter):
    """annotations.xml and images/."""

    is_read_by_stem: ClassVar[bool] = True
    is_read_beside: ClassVar[bool] = True
    reserved_attributes: ClassVar[frozenset[str]] = frozenset(_KNOWN_ATTRIBUTES)

    def __init__(self, folder: ExportFolder, report: ExportReport, images: ImageOptions) -> None:
        super().__init__(folder, report, images)
        self._attributes = dict[str, dict[str, None]]()  # names, by the label that has them
        self._body = folder.open(_BODY)  # the list of labels precedes it, but is complete only at the end

    def add(self, image: LabeledImage, name: str) -> int:
        number = self.report.images - 1
        size = {"width": image.width, "height": image.height}
        element = ET.Element("image", xml.to_attributes(id=number, name=name, **size))
        for group, traced in enumerate(image.traced_annotations, start=1):
            self._add_annotation(element, traced, group)
        self._body.write(xml.to_fragment(element, level=1))
        return len(image.annotations)

    def close(self) -> None:
        meta = ET.Element("meta")
        task = ET.SubElement(meta, "task")
        xml.add_texts(task, name="florist", size=self.report.images, mode="annotation")
        labels = ET.SubElement(task, "labels")
        for name, names in self._attributes.items():
            label = ET.SubElement(labels, "label")
            xml.add_texts(label, name=name)
            attributes = ET.SubElement(label, "attributes")
            for attribute in names:
                values = {"name": attribute, "mutable": "False", "input_type": "text"}
                xml.add_texts(ET.SubElement(attributes, "attribute"), **values, default_value="", values="")
        file = self.folder.open("annotations.xml")
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        file.write(xml.to_fragment(meta, level=1))
        self._body.seek(0)
        shutil.copyfileobj(self._body, file)
        file.write("</annotations>\n")
        self.folder.remove(_BODY)

    def _add_annotation(self, parent: ET.Element, traced: TracedAnnotation, group: int) -> None:
        annotation = traced.annotation
        label = CAPTION if isinstance(annotation, Text) else get_category(annotation)
        name = self.report.rename_class(label, xml.to_legal_text(label))
        known = self._attributes.setdefault(name, {})
        common = xml.to_attributes(label=name, source="auto")
        match annotation:
            case Text():
                elements = [ET.SubElement(parent, "tag", common)]
            case Box():
                corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{v:.3f}" for v in annotation.box), strict=True))
                elements = [ET.SubElement(parent, "box", {**common, "occluded": "0", **corners, "z_order": "0"})]
            case _:
                rings = to_rings(annotation)
                # The rings of one object are polygons of one group.
                grouped = {"group_id": str(group)} if len(rings) > 1 else {}
                elements = [
                    ET.SubElement(
                        parent,
                        "polygon",
                        {**common, "occluded": "0", "points": _format_points(ring), "z_order": "0", **grouped},
                    )
                    for ring in rings
                ]
        score = None if annotation.score is None else str(round(annotation.score, 6))
        text = annotation.label if isinstance(annotation, Text | Quad) else None
        values: dict[str, str | None] = {"score": score, "text": text, REVIEW: traced.review or None}
        for key, value in self.select_attributes(traced).attributes.items():
            values[xml.to_legal_text(key)] = value
        for key, written in values.items():
            if written is not None:
                known[key] = None
                for element in elements:
                    ET.SubElement(element, "attribute", {"name": key}).text = xml.to_legal_text(written)


def _format_points(ring: list[float]) -> str:
    return ";".join(f"{x:.3f},{y:.3f}" for x, y in to_points(ring))
