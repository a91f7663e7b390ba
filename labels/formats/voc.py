"""Pascal VOC: Annotations/ with an XML file for each picture of JPEGImages/, or both side by side;
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/. Pixels count from 1, and the last one is inside."""

from pathlib import Path

from labels import image_files
from labels.dataset import Dataset, DatasetError
from labels.image_files import ImageFile
from labels.label_kind import LabelKind
from labels.reading import checks, documents
from labels.reading.builder import DatasetBuilder
from labels.reading.checks import LabelError, Size
from labels.reading.documents import Element
from prompts.annotations import Box, Polygon

FOLDER, PICTURES = "Annotations", "JPEGImages"


def is_voc(root: Element) -> bool:
    """Whether an XML document is a picture's of VOC."""
    return root.tag == "annotation"


def read(folder: Path) -> Dataset:
    """The pictures and labels below a folder. Raises DatasetError."""
    builder = DatasetBuilder(folder)
    annotations = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    for path in sorted(annotations.rglob("*.xml")):
        relative = path.relative_to(annotations)
        source = path.relative_to(folder).as_posix()
        try:
            root = documents.load_xml(path)
        except DatasetError as error:
            builder.refuse(source, str(error))
            continue
        if is_voc(root):
            _read(root, relative, source, folder, builder)
    return builder.build()


def _read(root: Element, relative: Path, source: str, folder: Path, builder: DatasetBuilder) -> None:
    base = folder / PICTURES if (folder / PICTURES).is_dir() else folder
    named = root.value("filename") or ""
    folders = [base / relative.parent, base, folder, folder / "images"]
    try:
        # Sizes are mostly right and file names often are not: a file called like the XML is the picture.
        path = image_files.find_image_beside(base / relative) or image_files.find_image(
            named.rpartition("/")[2] or named, folders
        )
    except OSError as error:
        builder.refuse(f"{source}:{root.line}", str(error))
        return
    size = root.first("size")
    claimed = None if size is None else (_whole(size.value("width")), _whole(size.value("height")))
    name = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
    draft = builder.add_image(name, f"{source}:{root.line}", ImageFile(path), claimed and checks.parse_size(*claimed))
    if draft:
        for thing in root.all("object"):
            draft.add(LabelKind.OBJECTS, f"{source}:{thing.line}", _shape, thing, draft.size)


def _shape(thing: Element, size: Size) -> Box | Polygon:
    """A box, or a polygon where there is one, x1, y1, x2, y2 … by their tags."""
    name = thing.value("name")
    polygon = thing.first("polygon")
    if polygon is not None and len(polygon.children) >= 6:
        return checks.check_polygon(name, [[checks.check_number(point.text) for point in polygon.children]], size)
    box = thing.first("bndbox")
    if box is None:
        raise LabelError("it has no bndbox")
    x1, y1, x2, y2 = (checks.check_number(box.value(tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if x2 < x1 or y2 < y1:
        raise LabelError(f"its box is inverted: xmin {x1:g}, ymin {y1:g}, xmax {x2:g}, ymax {y2:g}")
    return checks.check_box(name, [x1 - 1, y1 - 1, x2, y2], size)


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0
