"""Pascal VOC: Annotations/ with an XML file for each image of JPEGImages/, or both side by side, or per split.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/. Boxes are in whole pixels that count from 1, and include the
last pixel. Boxes that CVAT turned (the attribute `rotation`) are polygons; parts, flags such as `difficult`, and masks
are left out. LabelMe's XML files, which CVAT also exports, are read too. An image whose mask in SegmentationObject
shows more objects than its XML file is not complete. The writer adds ImageSets/Main/default.txt, and labelmap.txt for
CVAT and Datumaro. Objects are boxes, also those with an outline; scores, the reasons for review (`review`) and other
attributes are in `attributes`, as CVAT and Datumaro write them.
"""

import os
import re
import xml.etree.ElementTree as ET
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from labels.dataset import Dataset, DatasetError
from labels.geometry import bounds, box_to_ring, rotate_ring, to_rings
from labels.image_files import ImageFile
from labels.image_folders import ImageFolders
from labels.image_resolver import ImageResolver
from labels.images import ImageError
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.reading import checks, documents
from labels.reading.checks import LabelError, Size
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.reading.documents import Element, find_text
from labels.reading.image_draft import ImageDraft
from labels.writing import xml
from labels.writing.categories import REVIEW, CategoryIds, describe_kind, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.image_names import split_suffix
from labels.writing.image_options import ImageOptions, ImagePlacement
from prompts.annotations import Box, Polygon

_ANNOTATIONS, _IMAGES, _LISTS = "Annotations", "JPEGImages", "imagesets"
_MASKS = "SegmentationObject"
_NO_OBJECTS = ((0, 0, 0), (224, 224, 192), (255, 255, 255))  # the background, and what belongs to no object
_USED = ("name", "bndbox", "polygon", "part", "attributes", "type", "deleted", "verified", "id", "date")
_MAX_COLORS = 1000  # of a mask: one for each object
_NOTHING = ("", "0", "unspecified", "none", "false", "no")  # values of flags
_FLAG = re.compile(r"\s+-?\d+$")
_QUOTES = re.compile(r'^"(.+)"$')
_UNLISTABLE = re.compile(r"^[\s#]+|\s+$")
_ATTRIBUTE = "attributes/attribute"  # of CVAT and Datumaro
_KNOWN_ATTRIBUTES = ("rotation", "score", REVIEW)
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def is_voc(root: Element) -> bool:
    """Returns whether an XML document describes one image of VOC."""
    return root.tag == "annotation"


def recognize(source: DatasetSource) -> bool:
    """Returns whether the XML files are VOC's, or the source is a list in ImageSets."""
    if source.path.is_file():
        return any(is_voc(root) for _, root in source.iter_xml()) or _find_lists_folder(source) is not None
    below = False
    for _, root in source.iter_xml():
        if is_voc(root):
            return True
        below = True
    return not below and _has_voc_below(source.path)


def _has_voc_below(folder: Path) -> bool:
    for file in sorted(folder.glob("*/*/**/*.xml")):
        with suppress(DatasetError):
            return is_voc(documents.load_xml(file))
    return False


def read(source: DatasetSource) -> Dataset:
    """Returns the images and labels below the folder, of the one file, or of a list of names in ImageSets.

    Raises DatasetError.
    """
    builder = DatasetBuilder(source.folder)
    lists = _find_lists_folder(source)
    folder = source.folder if lists is None else lists.parent
    resolver = source.resolver if lists is None else ImageResolver(folder)
    if (folder / _MASKS).is_dir():
        builder.refuse(_MASKS, "masks are not used; boxes and polygons of the XML files are")
    for path in _list_files(source, folder, builder):
        where = path.relative_to(folder).as_posix()
        try:
            root = documents.load_xml(path)
        except DatasetError as error:
            builder.refuse(where, str(error))
            continue
        if is_voc(root):
            _read_image(root, path, f"{where}:{root.sourceline}", resolver, builder)
        else:
            builder.refuse(where, "it is no XML file of Pascal VOC")
    return builder.build()


def _find_lists_folder(source: DatasetSource) -> Path | None:
    """Returns the folder ImageSets if the source is a list in it; else None."""
    parents = source.path.absolute().parents if source.suffix == ".txt" else []
    return next((folder for folder in list(parents)[:2] if folder.name.casefold() == _LISTS), None)


def _list_files(source: DatasetSource, folder: Path, builder: DatasetBuilder) -> list[Path]:
    """Returns the XML files of the source. Records those that a list names and that do not exist."""
    if source.path.is_dir():
        return source.list_below("*.xml")
    if source.suffix == ".xml":
        return [source.path]
    annotations = [each for each in sorted(folder.iterdir()) if each.name.casefold() == _ANNOTATIONS.casefold()]
    files = []
    lines = documents.read_lines(source.path, "replace")
    # A list for one class has 1, 0 or -1 after each name, one for layouts the number of a person. Datumaro puts names
    # with spaces in quotes there.
    has_flags = all(_FLAG.search(line) for line in lines if line)
    for number, line in enumerate(lines, 1):
        if line:
            name = _QUOTES.sub(r"\1", _FLAG.sub("", line) if has_flags else line)
            names = (line, name)
            found = [path for each in annotations for name in names if (path := each / f"{name}.xml").is_file()]
            files += found[:1]
            if not found:
                builder.refuse(f"{source.path.name}:{number}", f"there is no {_ANNOTATIONS}/{name}.xml")
    return list(dict.fromkeys(files))


def _read_image(root: Element, path: Path, where: str, resolver: ImageResolver, builder: DatasetBuilder) -> None:
    named = find_text(root, "filename") or ""
    folders = resolver.layout.list_folders(path)
    try:
        # The file names in VOC are often wrong: an image with the same name as the XML file comes first.
        mirrored = ImageFolders.from_folders(*_list_image_folders(path, resolver.root))
        found = resolver.find_beside(Path(path.stem), mirrored, named) if mirrored.tiers else None
        found = found or resolver.find_beside(Path(path.stem), folders, named)
        found = found or resolver.find_partner(path, named, folders)
    except OSError as error:
        builder.refuse(where, str(error))
        return
    size = root.find("size")
    stated = None if size is None else checks.parse_size(find_text(size, "width"), find_text(size, "height"))
    if draft := builder.add_found(replace(found, name=_to_name(found.path, resolver.root)), where, stated):
        objects = root.findall("object")
        for element in objects:
            source = f"{where.rpartition(':')[0]}:{element.sourceline}"
            _add_object(element, draft, source)
            _note_unused(element, draft, where.rpartition("/")[0] or where.rpartition(":")[0])
        _check_mask(path, resolver.root, len(objects), draft)


def _check_mask(path: Path, root: Path, count: int, draft: ImageDraft) -> None:
    """Refuses the objects that only the mask of an image shows, as CVAT exports polygons. `path`: the XML file."""
    annotations, below = _split_path(path, root) or (path.parent, Path(path.name))
    source = f"{_MASKS}/{below.with_suffix('.png').as_posix()}"
    mask = annotations.parent / source
    if not mask.is_file():
        return
    try:
        colors = ImageFile(mask)().getcolors(_MAX_COLORS) or [(0, None)] * _MAX_COLORS
    except (OSError, ImageError) as error:
        draft.refuse_label(LabelKind.OBJECTS, source, str(error))
        return
    shown = sum(color not in _NO_OBJECTS for _, color in colors)
    if shown > count:
        draft.refuse_label(LabelKind.OBJECTS, source, f"it shows {shown} objects, the XML file has {count}")


def _split_path(path: Path, root: Path) -> tuple[Path, Path] | None:
    """Returns the outermost folder Annotations that an XML file is in, and the path below it; None if there is none."""
    path = Path(os.path.normpath(path.absolute()))
    above = [folder for folder in path.parents if folder.name.casefold() == _ANNOTATIONS.casefold()]
    folder = next((folder for folder in reversed(above) if folder.is_relative_to(root)), None)
    return None if folder is None else (folder, path.relative_to(folder))


def _list_image_folders(path: Path, root: Path) -> list[Path]:
    """Returns the folder that mirrors the one of an XML file in JPEGImages beside Annotations; or nothing."""
    if (found := _split_path(path, root)) is None:
        return []
    folder = found[0].parent / _IMAGES
    return [folder / found[1].parent] if folder.is_dir() else []


def _to_name(path: Path, root: Path) -> str:
    """Returns the name of an image: its path in the dataset without the first folder JPEGImages."""
    parts = list((path.relative_to(root) if path.is_relative_to(root) else Path(path.name)).parts)
    folders = [part.casefold() for part in parts[:-1]]
    if _IMAGES.casefold() in folders:
        del parts[folders.index(_IMAGES.casefold())]
    return "/".join(parts)


def _add_object(element: Element, draft: ImageDraft, source: str) -> None:
    """Adds the polygon of an object if it has one: x1, y1, x2, y2 … in the order of its tags; otherwise its box.

    The polygon of LabelMe's XML has points (pt) instead, and may be a box.
    """
    if find_text(element, "deleted") == "1":
        draft.leave_out(source, "it is marked as deleted")
        return
    name, polygon = find_text(element, "name"), element.find("polygon")
    angle = _find_rotation(element)
    points = [] if polygon is None else [find_text(pt, side) for pt in polygon.iterfind("pt") for side in ("x", "y")]
    if points and find_text(element, "type") == "bounding_box":
        added = draft.add(LabelKind.OBJECTS, source, _read_bounds, name, points, draft.size)
    elif polygon is not None and len(polygon):
        box = None
        with suppress(LabelError):
            box = _read_corners(element)
        added = draft.add_outline(source, name, [points or [point.text for point in polygon]], box)
    elif angle:
        added = draft.add(LabelKind.OBJECTS, source, _read_rotated_box, name, element, angle, draft.size)
    else:
        added = draft.add(LabelKind.OBJECTS, source, _read_box, name, element, draft.size)
    draft.describe(source, added, _find_attributes(element))
    for part in element.iterfind("part"):
        draft.leave_out(source, f"its part {find_text(part, 'name')!r} is not used", find_text(part, "name"))


def _note_unused(element: Element, draft: ImageDraft, folder: str) -> None:
    """Records what else an object has, once for all objects of a folder."""
    for child in element:
        if child.tag not in _USED and "".join(map(str, child.itertext())).strip().casefold() not in _NOTHING:
            draft.builder.note_once(folder, f"{child.tag!r} of objects is not used")


def _find_attributes(element: Element) -> dict[str, str]:
    """Returns the attributes of an object that are not known otherwise."""
    pairs = ((find_text(each, "name") or "", find_text(each, "value") or "") for each in element.iterfind(_ATTRIBUTE))
    return {name: value for name, value in pairs if name not in _KNOWN_ATTRIBUTES}


def _read_box(name: str | None, element: Element, size: Size) -> Box:
    return checks.check_box(name, _read_corners(element), size)


def _read_bounds(name: str | None, points: list[str | None], size: Size) -> Box:
    return checks.check_box(name, bounds([checks.check_numbers(points)]), size)


def _read_rotated_box(name: str | None, element: Element, angle: str, size: Size) -> Polygon:
    x1, y1, x2, y2 = _read_corners(element)
    ring = rotate_ring(box_to_ring((x1, y1, x2, y2)), checks.check_number(angle), ((x1 + x2) / 2, (y1 + y2) / 2))
    return checks.check_polygon(name, [ring], size)


def _read_corners(element: Element) -> tuple[float, float, float, float]:
    box = element.find("bndbox")
    if box is None:
        raise LabelError("it has no bndbox")
    x1, y1, x2, y2 = (checks.check_number(find_text(box, side)) for side in _SIDES)
    if x2 < x1 or y2 < y1:
        raise LabelError(f"its box is inverted: xmin {x1:g}, ymin {y1:g}, xmax {x2:g}, ymax {y2:g}")
    return x1 - 1, y1 - 1, x2, y2


def _find_rotation(element: Element) -> str:
    """Returns the degrees by which CVAT turned a box around its center, an attribute; empty if it did not."""
    for attribute in element.iterfind(_ATTRIBUTE):
        if find_text(attribute, "name") == "rotation" and (value := find_text(attribute, "value")):
            return "" if set(value) <= {"0", ".", "-"} else value
    return ""


class VocWriter(DatasetWriter):
    """Annotations/, JPEGImages/, ImageSets/Main/default.txt and labelmap.txt."""

    images_folder: ClassVar[str] = _IMAGES
    reserved_attributes: ClassVar[frozenset[str]] = frozenset(_KNOWN_ATTRIBUTES)
    default_placement: ClassVar[ImagePlacement] = ImagePlacement.COPY
    sidecars: ClassVar[tuple[str, str] | None] = (_ANNOTATIONS, ".xml")

    def __init__(self, folder: ExportFolder, report: ExportReport, images: ImageOptions) -> None:
        super().__init__(folder, report, images)
        self._categories = CategoryIds()
        self._image_set = folder.open("ImageSets/Main/default.txt")

    @classmethod
    def to_holdable(cls, name: str) -> str:
        """Returns a name that can be a line of the list of images: readers strip lines and skip those with a #."""
        stem, suffix = split_suffix(name)
        return _UNLISTABLE.sub(lambda found: "_" * len(found[0]), stem) + suffix

    def add(self, image: LabeledImage, name: str) -> int:
        root = ET.Element("annotation")
        xml.add_texts(root, folder="", filename=name if self.images.are_included else image.name)
        xml.add_texts(ET.SubElement(root, "source"), database="florist")
        xml.add_texts(ET.SubElement(root, "size"), width=image.width, height=image.height, depth=3)
        xml.add_texts(root, segmented=0)
        written = 0
        for traced in image.traced_annotations:
            annotation = traced.annotation
            if not isinstance(annotation, Box | Polygon):
                self.leave_out(describe_kind(annotation), traced)
                continue
            if isinstance(annotation, Polygon):
                self.leave_out("outlines", traced, is_written=True)
            written += 1
            label = get_category(annotation)
            category = self.report.rename_class(label, xml.to_legal_text(_to_line(label)))
            self._categories.get_id(category)
            element = ET.SubElement(root, "object")
            xml.add_texts(element, name=category, pose="Unspecified", truncated=0, difficult=0)
            x1, y1, x2, y2 = (round(v) for v in bounds(to_rings(annotation)))
            # A box is at least one pixel wide and high.
            corners = dict(zip(_SIDES, (x1 + 1, y1 + 1, max(x2, x1 + 1), max(y2, y1 + 1)), strict=True))
            xml.add_texts(ET.SubElement(element, "bndbox"), **corners)
            _add_attributes(element, self.select_attributes(traced))
        self.write_sidecar(name, xml.to_document(root))
        self._image_set.write(f"{split_suffix(name)[0]}\n")
        return written

    def close(self) -> None:
        names = ("background", *(name for name in self._categories.by_name if name != "background"))
        rows = "".join(f"{name}:::\n" for name in names)
        self.folder.write("labelmap.txt", f"# label:color_rgb:parts:actions\n{rows}")


def _add_attributes(parent: ET.Element, traced: TracedAnnotation) -> None:
    """Adds the score, the reason for review and the attributes, as CVAT and Datumaro write them."""
    score = None if traced.annotation.score is None else round(traced.annotation.score, 6)
    values = {"score": score, REVIEW: traced.review or None, **traced.attributes}
    if any(value is not None for value in values.values()):
        attributes = ET.SubElement(parent, "attributes")
        for name, value in values.items():
            if value is not None:
                xml.add_texts(ET.SubElement(attributes, "attribute"), name=name, value=value)


def _to_line(label: str) -> str:
    """Returns a label that labelmap.txt can hold, where colons are separators. The XML files use the same label."""
    return " ".join(label.replace(":", " ").split()).lstrip("# ") or "object"
